"""`python -m benchmarks`: frostline side by side with what its users would pick instead."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from benchmarks import harness, report
from benchmarks.work import all_works

HERE = Path(__file__).parent
RESULTS = HERE / "results"
EPILOG = """\
examples:
  python -m benchmarks                        everything; leave the machine alone meanwhile
  python -m benchmarks --quick                on a small scale, in minutes: does it work, roughly how fast
  python -m benchmarks --only mlp probe       two rows; the others stay in the table as last measured
  python -m benchmarks --only mlp --repeats 7

Every competitor is a process of its own; they take turns, A B C A B C, and a ratio is the median over the
repeats. The first run makes the environments of the competitors, from pinned packages, in benchmarks/.venv*:
TensorFlow's takes 1.5 GB and is made by a full run of mlp only. Results go to benchmarks/results: README.md
(the table), ratios.png and .svg, a JSON file for each row and device. benchmarks/README.md says what is
compared, and how fair it is.

exit status: 0 done, whether or not targets are met; 1 a competitor failed, which the table says too;
2 a mistake in the command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the results, and return the exit status."""
    works = {work.name: work for work in all_works()}
    arguments = _arguments(argv, list(works))
    if arguments.list:
        for work in works.values():
            print(f"{work.name:10}{work.title}")
        return 0
    out = arguments.out or (RESULTS / "quick" if arguments.size == "quick" else RESULTS)
    devices = _devices(arguments.device)
    failures = []
    for name in arguments.only or works:
        for device in (d for d in devices if d in works[name].devices):
            found = harness.measure(works[name], arguments.size, arguments.repeats, device, _tell)
            report.save(found, out)
            failures += found.failures
    print(report.write(list(works.values()), out))
    print(f"\n{out / report.TABLE}\n{out / report.PICTURE}.png")
    for failure in failures:
        print(f"benchmarks: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _arguments(argv: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Measure frostline side by side with what its users would pick instead.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=f"some of {', '.join(names)}")
    parser.add_argument(
        "--repeats", type=_positive, metavar="N", help="of each competitor (default: each row's own, 1 to 5)"
    )
    parser.add_argument(
        "--quick", dest="size", action="store_const", const="quick", help="on a small scale, under 5 minutes"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda", "all"], default="all", help="all: the GPU, too, if there is one"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the results (default: benchmarks/results, results/quick)",
    )
    # For tests: seconds, and no numbers worth reading.
    parser.add_argument("--size", choices=["full", "quick", "tiny"], default="full", help=argparse.SUPPRESS)
    parser.set_defaults(size="full")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"found {value}; give at least 1")
    return value


def _devices(asked: str) -> list[str]:
    if asked != "all":
        return [asked]
    return ["cpu", "cuda"] if harness.gpu() else ["cpu"]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.exit(main())
