"""What runs on a GPU, checked: `gpu_check` starts this in a process of its own.

Each check gets a `Bench`, and returns what to say in the table and figures for the JSON file; it raises where
something is not as it should be.
"""

import contextlib
import json
import math
import re
import shutil
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import gpu_loops
from benchmarks.gpu_bench import (
    Bench,
    Stopped,
    accuracy,
    counted,
    give,
    give_digits,
    losses,
    near,
    same_bytes,
    timed,
    training_json,
)
from frostline.data.reading.sources import ArraySource

ROOT = Path(__file__).parents[1]
Result = tuple[str, dict[str, Any]]
ARMS = {
    "scratch": ("weights=none", "freeze=full"),
    "zero_shot": ("freeze=zero_shot",),
    "linear_probe": ("freeze=linear_probe",),
    "full": ("freeze=full",),
    "gradual": ("freeze=gradual",),
}
LEAST = {"full": 0.9, "gradual": 0.9, "scratch": 0.8}
"""Test accuracy of the default study's arms: well below what they have on a CPU."""


ROUNDING = 0.05
"""The share of a loss by which two ways of computing a convex problem's may differ."""
DIVERGING = 0.3
"""As much for a whole network, whose steps carry a difference further."""
ROUNDS = 3
"""How often a benchmark row is measured, in turn with the loop; medians are shown."""


def environment(bench: Bench) -> Result:
    """Say what is here, and compute something."""
    figures: dict[str, Any] = {"python": sys.version.split()[0], "torch": torch.__version__}
    if bench.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        figures |= {"gpu": card.name, "gib": round(card.total_memory / 2**30, 1), "cuda": torch.version.cuda}
        figures |= {"capability": f"{card.major}.{card.minor}", "gpus": torch.cuda.device_count()}
    x = torch.randn(256, 256, device=bench.device)
    torch.testing.assert_close((x @ x.T).cpu(), x.cpu() @ x.cpu().T, rtol=1e-2, atol=1e-1)
    return ", ".join(f"{key} {value}" for key, value in figures.items()), figures


def tests(bench: Bench) -> Result:
    """Run the tests marked gpu: their files alone, since others need more packages."""
    files = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text(encoding="utf-8")
    )
    options = ["addopts=--import-mode=importlib", "filterwarnings=default"]
    settings = [word for option in options for word in ("-o", option)]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *settings, *files]
    pipe, joined = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(words, cwd=ROOT, stdout=pipe, stderr=joined, text=True, check=False)
    last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1].strip("= ")
    assert done.returncode == 0, f"{last}\n{done.stdout}"
    assert bench.tiny or re.search(r"\d+ passed", last), f"none ran: {last}"
    return last, {}


def study(bench: Bench) -> Result:
    """Train the arms of the default study with one seed."""
    words = ["experiment=mnist_to_digits"]
    words += [f"{key}={bench.device}" for key in ("trainer.device", "pretrain.trainer.device")]
    if bench.tiny:
        words += ["source.fraction=0.05", "pretrain.trainer.epochs=1", "trainer.epochs=1"]
    found = {arm: accuracy(bench.run("study", *words, *more)) for arm, more in ARMS.items()}
    least = {} if bench.tiny else LEAST
    assert all(value >= least.get(arm, 0.0) for arm, value in found.items()), f"test accuracies {found}"
    return ", ".join(f"{arm} {value:.3f}" for arm, value in found.items()), found


def repeat(bench: Bench) -> Result:
    """Train twice, in two projects: no cache is shared."""
    words = [*bench.words, "augment=light", f"trainer.precision={'fp32' if bench.tiny else 'bf16'}"]
    networks = {"ResNet": words}
    if not bench.tiny:
        networks["ViT"] = [*words, "backbone=vit_tiny", "input.size=224", "input.channels=3"]
    found = {
        name: same_bytes(bench.run(f"{name}-a", *words), bench.run(f"{name}-b", *words))
        for name, words in networks.items()
    }
    return ", ".join(f"{name} {value}" for name, value in found.items()), found


def resume(bench: Bench, *more: str) -> Result:
    """Stop a run in the middle, inside an epoch, and run it again."""
    words = [*bench.words, "freeze=gradual", "trainer.steps_per_execution=1", *more]
    with counted() as steps:
        whole = bench.run("whole", *words)
    per_epoch = len(steps) // 3
    stop = per_epoch + max(1, per_epoch // 2)
    with counted(stop), contextlib.suppress(Stopped):
        bench.run("stopped", *words)
        raise AssertionError("the run was not stopped")
    with counted() as rest:
        resumed = bench.run("stopped", *words)
    assert len(rest) == len(steps) - stop, f"{len(rest)} of {len(steps)} steps after a stop at {stop}"
    return f"{same_bytes(whole, resumed)}: stopped after {stop} of {len(steps)} steps", {}


def features(bench: Bench) -> Result:
    """Train a linear probe on features, and with the whole network at each step."""
    words = [*bench.words, "freeze=linear_probe", "trainer.precision=fp32", "optimizer.lr=0.1"]
    on, off = bench.run("on", *words), bench.run("off", *words, "features=off")
    (used,) = training_json(on)["features"]
    assert not used.startswith("whole network"), used
    return f"{near(on, off, ROUNDING)}, at {used}", {"on": losses(on), "off": losses(off)}


def ema(bench: Bench) -> Result:
    """As `resume`, with an average of the weights, which is on the device, too."""
    return resume(bench, "averaging=ema")


def bf16(bench: Bench) -> Result:
    """Train in bfloat16 and in float32."""
    half, single = (bench.run(name, *bench.words, f"trainer.precision={name}") for name in ("bf16", "fp32"))
    used = training_json(half)["precision"]["trains"]
    assert used == "bf16", used
    return near(half, single, DIVERGING), {"bf16": losses(half), "fp32": losses(single)}


def fp16(bench: Bench) -> Result:
    """Train in float16, with a scaled loss, and in float32."""
    if bench.tiny:
        return "not run: float16 trains on a GPU only", {"run": False}
    half, single = (bench.run(name, *bench.words, f"trainer.precision={name}") for name in ("fp16", "fp32"))
    return near(half, single, DIVERGING), {"run": True, "fp16": losses(half), "fp32": losses(single)}


def compiled(bench: Bench) -> Result:
    """Train with torch.compile and without."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not any(map(shutil.which, ("cc", "gcc", "clang"))) or not headers.is_file():
        return f"not run: torch.compile needs a C compiler and {headers}", {"run": False}
    words = [*bench.words, "trainer.epochs=2", "trainer.precision=fp32", "features=off"]
    if bench.tiny:
        words += ["backbone=mlp", "backbone.hidden=[16]"]
    with_it, without = bench.run("compiled", *words, "trainer.compile=true"), bench.run("plain", *words)
    return near(with_it, without, DIVERGING), {"run": True}


def heads(bench: Bench) -> Result:
    """Train a grid of heads at once, ridge regression and nearest neighbours."""
    from frostline.probing import standalone

    place = bench.folder / "probe"
    place.mkdir()
    with contextlib.chdir(place), contextlib.redirect_stdout(sys.stderr):
        # A random network's features vary little: heads learn from them with large learning rates alone.
        standalone.run([*bench.words, "trainer.epochs=20", "optimizer.lr=0.1,1", "seed=0,1", "out=probe"])
    found = json.loads((place / "probe/probe.json").read_text())
    figures = {name: found[name]["test"]["accuracy"] for name in ("ridge", "knn")}
    figures["best head"] = found["best"]["test"]["accuracy"]["mean"]
    assert bench.tiny or min(figures.values()) > 0.5, figures
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items()), figures


def two(bench: Bench) -> Result:
    """Run two processes at once on the same device."""
    script = "from benchmarks.gpu_checks import one; import sys; one(*sys.argv[1:])"
    device_and_data = json.dumps([bench.device, bench.data])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, device_and_data, str(bench.folder / name), *bench.words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), "one of them failed"
    a, b = (Path(text.strip().splitlines()[-1]) for text in outputs)
    return same_bytes(a, b), {}


def one(device_and_data: str, place: str, *words: str) -> None:
    """Fine-tune in a process of its own, and print the results' folder."""
    device, data = json.loads(device_and_data)
    give_digits(data)
    folder = Path(place)
    print(Bench(device, data, folder.parent).run(folder.name, *words))


def row(kind: str) -> Callable[[Bench], Result]:
    """Return the check that measures frostline beside a loop written by hand."""

    def check(bench: Bench) -> Result:
        work = gpu_loops.WORK[kind].smaller() if bench.tiny else gpu_loops.WORK[kind]
        images, labels = gpu_loops.images(work)
        give("digits", ArraySource(images, labels, tuple(f"class {k}" for k in range(work.classes))))
        words = gpu_loops.words(work, kind, bench.device)
        # As in the loop, kernels are chosen and loaded before anything is measured. No runs share a cache.
        bench.run("before", *words)
        pairs: list[tuple[float, float]] = []
        for number in range(ROUNDS):
            ours, out = timed(partial(bench.run, f"ours-{number}", *words))
            assert all(map(math.isfinite, losses(out))), losses(out)
            pairs.append((ours, gpu_loops.LOOPS[kind](work, images, labels, torch.device(bench.device))))
        ours, theirs = (median(column) for column in zip(*pairs, strict=True))
        ratio = median(ours / theirs for ours, theirs in pairs)
        said = f"{ours:.2f} s, by hand {theirs:.2f} s: {ratio:.2f} times as long"
        return said, {"seconds": pairs, "ratio": ratio}

    return check


CHECKS: dict[str, Callable[[Bench], Result]] = {
    "environment": environment,
    "tests": tests,
    "study": study,
    "repeat": repeat,
    "resume": resume,
    "features": features,
    "ema": ema,
    "bf16": bf16,
    "fp16": fp16,
    "compile": compiled,
    "heads": heads,
    "two": two,
    # Last, since they put other images in the place of the digits.
    **{f"bench_{kind}": row(kind) for kind in gpu_loops.WORK},
}


def main() -> None:
    """Run the checks named; say of each, in a line of JSON, what it came to."""
    request = json.loads(sys.argv[1])
    give_digits(request["data"])
    for name in request["names"]:
        answer: dict[str, Any] = {"check": name, "usable": True}
        try:
            answer["result"], answer["figures"] = CHECKS[name](Bench(request["device"], request["data"]))
            answer["passed"] = True
        except Exception as error:
            traceback.print_exc()
            (first, *_) = str(error).strip().splitlines() or ["no reason given"]
            # After an error on the device itself all that follows fails, too.
            answer["usable"] = not (isinstance(error, RuntimeError) and "CUDA" in str(error))
            answer |= {"passed": False, "result": f"{type(error).__name__}: {first}"[:300]}
            answer["figures"] = {"traceback": traceback.format_exc()[-4000:]}
        print(json.dumps(answer), flush=True)
        if not answer["usable"]:
            return


if __name__ == "__main__":
    main()
