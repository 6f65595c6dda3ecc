"""The report stage, whole: what it leaves, that its bytes repeat and its parts agree, what it refuses."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.study import DEFAULT, MONITOR, SEEDS, Shape, write_study

from frostline.base.files import write_text
from frostline.base.formats import canonical_json, read_csv
from frostline.base.metrics import METRICS
from frostline.console.errors import FrostlineError
from frostline.pipeline.report.stage import write_report
from frostline.schema import Report
from frostline.stats import gate

LEFT = ["curves.csv", "index.html", "metrics.json", "report.json", "report.md", "transfer.png"]
GATE = {"arms.full.test.accuracy.mean": 0.85, "arms.full.gain.low": 0.5}


def _config(arms: Mapping[str, Shape] = DEFAULT, seeds: tuple[int, ...] = SEEDS, **changes: Any) -> Report:
    given: dict[str, Any] = {"study": "mnist_to_digits", "gate": GATE, **changes}
    return Report(arms=list(arms), seeds=list(seeds), monitor=MONITOR, **given)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a study of five arms and five seeds."""
    return write_study(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture(scope="module")
def made(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That study's report."""
    out = tmp_path_factory.mktemp("out") / "report"
    write_report(_config(), artifacts, out)
    return out


def _json(made: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((made / "report.json").read_text())
    return content


# ── what it leaves ──────────────────────────────────────────────────────────────────────────────────────────


def test_leaves_its_files_and_no_other(made: Path) -> None:
    assert sorted(p.name for p in made.parent.rglob("*") if p.is_file()) == LEFT


def test_the_result_is_what_a_command_prints(artifacts: Path, tmp_path: Path) -> None:
    result = write_report(_config(), artifacts, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.startswith(f"{result.sentence}\n\n{result.table}")
    assert result.page == tmp_path / "out" / "index.html"
    assert result.sentence.startswith("Transfer helped: full gains ")


def test_bytes_repeat(artifacts: Path, made: Path, tmp_path: Path) -> None:
    # In a process of its own, with another hash seed and another folder.
    script = (
        "import json, sys; from pathlib import Path; from frostline.schema import Report; "
        "from frostline.pipeline.report.stage import write_report; "
        "write_report(Report.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))"
    )
    again = tmp_path / "elsewhere"
    arguments = [_config().model_dump_json(), str(artifacts), str(again)]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)
    for name in LEFT:
        assert (again / name).read_bytes() == (made / name).read_bytes(), name


def test_what_dvc_tracks_as_repeatable_holds_no_times(artifacts: Path, made: Path, tmp_path: Path) -> None:
    slower = write_study(tmp_path / "artifacts")
    for path in (slower / "timing").iterdir():
        content = json.loads(path.read_text())
        for clock in content["seeds"].values():
            clock["train_seconds"] *= 3
            clock["epoch_seconds"] = [3 * end for end in clock["epoch_seconds"]]
        write_text(path, canonical_json(content))
    write_report(_config(), slower, tmp_path / "out")
    for name in ("metrics.json", "curves.csv", "transfer.png"):
        assert (tmp_path / "out" / name).read_bytes() == (made / name).read_bytes(), name
    assert (tmp_path / "out" / "report.md").read_text() != (made / "report.md").read_text()


def test_no_machine_shows_in_the_files(made: Path, artifacts: Path) -> None:
    for name in LEFT:
        content = (made / name).read_bytes()
        assert str(artifacts).encode() not in content
        assert b"Matplotlib" not in content
    assert b"tEXt" not in (made / "transfer.png").read_bytes()


# ── its numbers ─────────────────────────────────────────────────────────────────────────────────────────────


def test_json_holds_what_the_inputs_say(made: Path, artifacts: Path) -> None:
    found = _json(made)["arms"]
    for arm in DEFAULT:
        seeds = json.loads((artifacts / "evaluate" / arm / "metrics.json").read_text())["seeds"]
        accuracies = [seeds[str(seed)]["test"]["accuracy"] for seed in SEEDS]
        assert found[arm]["test"]["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 5)
        clocks = json.loads((artifacts / "timing" / f"{arm}.json").read_text())["seeds"]
        total = sum(clock["train_seconds"] for clock in clocks.values())
        assert found[arm]["train_seconds"]["all"] == pytest.approx(total)
    full, scratch = found["full"], found["scratch"]
    assert full["gain"]["mean"] == pytest.approx(
        full["test"]["accuracy"]["mean"] - scratch["test"]["accuracy"]["mean"]
    )
    assert scratch["gain"] is scratch["verdict"] is None


def test_times_are_those_of_the_epoch_that_reaches_the_baseline(artifacts: Path, made: Path) -> None:
    expected = []
    clocks = json.loads((artifacts / "timing" / "full.json").read_text())["seeds"]
    for seed in SEEDS:
        own, baseline = (
            [
                float(row["val/accuracy"])
                for row in read_csv(artifacts / "finetune" / arm / f"seed-{seed}" / "history.csv")
            ]
            for arm in ("full", "scratch")
        )
        epoch = next(epoch for epoch, value in enumerate(own) if value >= max(baseline))
        expected.append((epoch, clocks[str(seed)]["epoch_seconds"][epoch - 1]))
    found = _json(made)["arms"]["full"]
    assert found["epochs_to_twin"]["median"] == sorted(epoch for epoch, _ in expected)[2]
    assert found["seconds_to_twin"]["median"] == pytest.approx(sorted(time for _, time in expected)[2])


def test_page_markdown_and_json_agree(made: Path) -> None:
    numbers, text, page = _json(made), (made / "report.md").read_text(), _text(made)
    assert numbers["verdict"]["sentence"] in text
    assert numbers["verdict"]["sentence"] in page
    for arm, found in numbers["arms"].items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {arm} "))
        accuracy = found["test"]["accuracy"]
        interval = f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}"
        if accuracy["low"] == accuracy["high"]:  # as of zero_shot, which does not train
            interval = f"all {accuracy['n']} equal"
        shown = [f"{100 * accuracy['mean']:.1f} %", interval]
        if gain := found["gain"]:
            shown += [f"{100 * gain[end]:+.1f}".replace("-", "−") for end in ("mean", "low", "high")]
        if (median := found["epochs_to_twin"]["median"]) is not None:
            shown.append(f"{median:g}")
        for number in shown:
            assert number in line, (arm, number)
            assert number in page, (arm, number)


def test_flat_metrics_and_curves_are_those_of_the_report(made: Path) -> None:
    numbers, flat = _json(made)["arms"], json.loads((made / "metrics.json").read_text())
    assert flat["full.accuracy"] == numbers["full"]["test"]["accuracy"]["mean"]
    assert flat["full.gain"] == round(numbers["full"]["gain"]["mean"], 10)
    assert {key.rpartition(".")[2] for key in flat} == {"accuracy", "gain"}
    assert all(isinstance(value, float) for value in flat.values())
    rows = read_csv(made / "curves.csv")
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(41)]
    assert list(rows[0]) == ["epoch"] + [f"{arm}{end}" for arm in DEFAULT for end in ("", ".low", ".high")]
    assert all(float(row["full.low"]) <= float(row["full"]) <= float(row["full.high"]) for row in rows)
    assert {row["zero_shot"] for row in rows} == {rows[0]["zero_shot"]}


def test_gate_status_is_in_every_part_and_stops_nothing(made: Path) -> None:
    status = _json(made)["gate"]
    assert {metric: entry["passed"] for metric, entry in status.items()} == {
        "arms.full.test.accuracy.mean": True,
        "arms.full.gain.low": False,
    }
    assert "- failed: gate: arms.full.gain.low is" in (made / "report.md").read_text()
    assert "1 of 2 metrics" in _text(made)


def test_the_gate_knows_every_number_of_a_report(made: Path) -> None:
    numbers = _json(made)
    arms: Mapping[str, Any] = numbers["arms"]
    allowed = set(gate.metric_names(list(arms)))
    for name, value in _leaves({"arms": arms}):
        assert not isinstance(value, int | float) or name in allowed, name
    measured = set(arms["full"]["test"])
    of_other_metrics = [f".test.{metric}." for metric in METRICS if metric not in measured]
    present = {name for name, _ in _leaves({"arms": arms})}
    for name in allowed - present:
        assert any(part in name for part in of_other_metrics) or name.startswith("arms.zero_shot."), name


def _leaves(node: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(path, node)]
    return [leaf for key, value in node.items() for leaf in _leaves(value, f"{path}.{key}".lstrip("."))]


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────


class _Page(HTMLParser):
    """Collects a page's words, its ids and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._inside.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "href", "xlink:href", "data", "poster", "action") and value:
                self.loads.append(value)
            if name == "id" and value:
                self.ids.append(value)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._inside:
            self.words.append(data)


def _parsed(made: Path) -> _Page:
    page = _Page()
    page.feed((made / "index.html").read_text())
    return page


def _text(made: Path) -> str:
    return " ".join(" ".join(_parsed(made).words).replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_page_loads_nothing(made: Path) -> None:
    page, source = _parsed(made), (made / "index.html").read_text()
    assert [load for load in page.loads if not load.startswith("#")] == []
    assert not re.search(r"url\((?!#)|@import", source)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed"})
    # A namespace is a name, not a place.
    namespaces = {"http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'\s)]+", source)) <= namespaces


def test_every_reference_in_the_page_has_one_target(made: Path) -> None:
    page, source = _parsed(made), (made / "index.html").read_text()
    assert len(page.ids) == len(set(page.ids))
    used = {load[1:] for load in page.loads} | set(re.findall(r"url\(#([^)]+)\)", source))
    assert used <= set(page.ids)


def test_the_page_is_for_light_and_dark_and_shows_each_arm(made: Path) -> None:
    source, text = (made / "index.html").read_text(), _text(made)
    assert "prefers-color-scheme: dark" in source
    assert 'name="viewport"' in source
    assert "@media print" in source
    for arm in DEFAULT:
        assert text.count(arm) >= 4
    assert "trains head → head + top → all" in text
    # No colour of the light pictures is left to shine in the dark.
    pictures = re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)
    assert len(pictures) == 2 + 4
    assert not [found for svg in pictures for found in re.findall(r"#[0-9a-f]{6}\b", svg)]


def test_names_are_words_not_markup(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path, classes=("a & <b>b</b>", "$x_1$", "ü"))
    write_report(_config(study="<i>study</i> | $y$"), artifacts, tmp_path / "out")
    assert "a & <b>b</b>" in _text(tmp_path / "out")
    assert "<b>b</b>" not in (tmp_path / "out" / "index.html").read_text()


def test_many_classes_show_the_most_telling(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path, classes=[f"class {i:02}" for i in range(40)])
    write_report(_config(), artifacts, tmp_path / "out")
    assert "Of 40 classes, the 25 on which the arms differ most." in _text(tmp_path / "out")


@pytest.mark.parametrize(
    ("shapes", "seeds", "headline"),
    [
        ({"scratch": DEFAULT["scratch"], "full": DEFAULT["full"]}, (3,), "Undecided"),
        ({"full": DEFAULT["full"]}, SEEDS, "Undecided"),
        ({"scratch": DEFAULT["scratch"]}, SEEDS, "Undecided"),
        ({"scratch": DEFAULT["full"], "full": Shape(0.05, 0.8, 5)}, SEEDS, "Transfer hurt: −"),
    ],
    ids=["one seed", "no baseline", "baseline alone", "hurt"],
)
def test_odd_studies_get_a_whole_report_too(
    shapes: Mapping[str, Shape], seeds: tuple[int, ...], headline: str, tmp_path: Path
) -> None:
    artifacts = write_study(tmp_path / "artifacts", shapes, seeds)
    result = write_report(_config(shapes, seeds), artifacts, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == LEFT
    page, text = _text(tmp_path / "out"), (tmp_path / "out" / "report.md").read_text()
    assert headline in page
    for sentence in [result.sentence, *_json(tmp_path / "out")["notes"]]:
        assert sentence in page
        assert sentence in text


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (
            ("within", "selection", 20, 100, (2, 10)),
            "The best epoch is selected on 2 of the 10 labelled images per class.",
        ),
        (
            ("within", "selection", 21, 100, None),
            "The best epoch is selected on 21 of the 100 labelled images.",
        ),
        (
            ("within", "val", 362, None, None),
            "The best epoch is selected on the 362 images of the validation split.",
        ),
        (
            ("held_out", "val", 180, 100, (18, 10)),
            "The best epoch is selected on the 180 images of the validation split, beyond the label budget of"
            " 100 images: 280 labels in all.",
        ),
        (("last", "last", 0, 100, (0, 10)), "No epoch is selected: each run's last one is measured."),
    ],
    ids=["within", "uneven classes", "all labels", "held out", "last"],
)
def test_the_rule_that_chose_the_epochs_is_one_sentence(
    record: tuple[str, str, int, int | None, tuple[int, int] | None], sentence: str, tmp_path: Path
) -> None:
    artifacts = write_study(tmp_path / "artifacts", {"full": DEFAULT["full"]}, (0, 1))
    rule, chooses, images, labelled, per_class = record
    selection = {
        "rule": rule,
        "chooses": chooses,
        "images": images,
        "labelled": labelled,
        "per_class": per_class and dict(zip(("images", "labelled"), per_class, strict=True)),
    }
    for path in artifacts.rglob("training.json"):
        write_text(path, canonical_json({**json.loads(path.read_text()), "selection": selection}))
    write_report(_config({"full": DEFAULT["full"]}, (0, 1)), artifacts, tmp_path / "out")
    assert sentence in _text(tmp_path / "out")
    assert sentence in (tmp_path / "out" / "report.md").read_text()
    assert _json(tmp_path / "out")["selection"] == {**selection, "sentence": sentence}


# ── inputs that are missing or damaged ──────────────────────────────────────────────────────────────────────

Damage = Callable[[Path], object]


def _without(path: str) -> Damage:
    return lambda artifacts: (artifacts / path).unlink()


def _with(path: str, text: str) -> Damage:
    return lambda artifacts: write_text(artifacts / path, text)


def _changed(path: str, old: str, new: str) -> Damage:
    return lambda artifacts: write_text(artifacts / path, (artifacts / path).read_text().replace(old, new, 1))


HISTORY, TRAINING = "finetune/full/seed-1/history.csv", "finetune/full/seed-1/training.json"
SCORES, PREDICTIONS = "evaluate/full/metrics.json", "evaluate/full/seed-1/predictions.csv"
TIMING = "timing/full.json"
NO_ACCURACY = '{"seeds": {"1": {"test": {}, "val": {}}}}'


@pytest.mark.parametrize(
    ("damage", "path", "found", "stage"),
    [
        (_without(HISTORY), HISTORY, "is missing", "finetune"),
        (_without(TRAINING), TRAINING, "is missing", "finetune"),
        (_without(TIMING), TIMING, "is missing", "finetune"),
        (_without(SCORES), SCORES, "is missing", "evaluate"),
        (_without(PREDICTIONS), PREDICTIONS, "is missing", "evaluate"),
        (_with(HISTORY, ""), HISTORY, "its epochs are not 0, 1, 2, …", "finetune"),
        (_with(HISTORY, "epoch,step\n0,0\n"), HISTORY, "it has no column val/accuracy", "finetune"),
        (_changed(HISTORY, "\n2,10", "\n3,10"), HISTORY, "its epochs are not 0, 1, 2, …", "finetune"),
        (_with(HISTORY, "epoch,val/accuracy\n0,nan\n"), HISTORY, "epoch 0 has val/accuracy nan", "finetune"),
        (_with(HISTORY, "epoch,val/accuracy\n0,\n"), HISTORY, "column val/accuracy is empty", "finetune"),
        (_with(HISTORY, "epoch,val/accuracy\n0,high\n"), HISTORY, "could not convert", "finetune"),
        (_with(HISTORY, "epoch\0"), HISTORY, "", "finetune"),
        (_with(TRAINING, "{"), TRAINING, "is not valid JSON", "finetune"),
        (_with(TRAINING, "{}"), TRAINING, "best_epoch: field required", "finetune"),
        (_with(TIMING, '{"seeds": {}}'), TIMING, "it has no seed 0", "finetune"),
        (_changed(TIMING, "0.31,", ""), TIMING, "seed 0 has 39 times for 40 epochs", "finetune"),
        (_with(SCORES, NO_ACCURACY.replace("1", "9")), SCORES, "none of the seeds 0, 1, 2, 3, 4", "evaluate"),
        (_with(SCORES, NO_ACCURACY), SCORES, "seed 1 has no accuracy", "evaluate"),
        (_with(SCORES, "[]"), SCORES, "should be a valid dictionary", "evaluate"),
        (_with(PREDICTIONS, "id,label,prediction\n"), PREDICTIONS, "it has no rows", "evaluate"),
        (_with(PREDICTIONS, "id,label\n0,1\n"), PREDICTIONS, "it has no column prediction", "evaluate"),
    ],
)  # fmt: skip
def test_a_bad_input_is_one_sentence_with_its_file_and_stage(
    damage: Damage, path: str, found: str, stage: str, tmp_path: Path
) -> None:
    arms = {"scratch": DEFAULT["scratch"], "full": DEFAULT["full"]}
    artifacts = write_study(tmp_path / "artifacts", arms)
    damage(artifacts)
    with pytest.raises(FrostlineError) as error:
        write_report(_config(arms), artifacts, tmp_path / "out")
    sentence = str(error.value)
    assert sentence.startswith(str(artifacts / path))
    assert found in sentence
    assert sentence.endswith(f": run its stage again, with `dvc repro {stage}@full`")
    assert sentence.count(path) == 1
    assert "\n" not in sentence
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FrostlineError, match="nowhere is missing: run the pipeline's earlier stages"):
        write_report(_config(), tmp_path / "nowhere", tmp_path / "out")


def test_the_stage_loads_neither_torch_nor_pictures_before_it_runs() -> None:
    script = (
        "import sys; import frostline.pipeline.report.stage, frostline.stats.gate; "
        "print([m for m in ('torch', 'matplotlib', 'jinja2', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_it_repeats_what_prepare_and_leakage_warned_about(tmp_path: Path) -> None:
    """Skipped files and near-duplicates limit what the numbers say."""
    artifacts = write_study(tmp_path / "artifacts")
    skipped = "1 file was skipped (dataset.json lists all): a/1.gif is an animation"
    leaked = "2 images of the source look like one of the target"
    write_text(artifacts / "data/target/dataset.json", json.dumps({"name": "signs", "warnings": [skipped]}))
    write_text(artifacts / "leakage/leakage.json", json.dumps({"warnings": [leaked]}))
    write_report(_config(), artifacts, tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert f"- signs: {skipped}.\n" in text
    assert f"- {leaked} (artifacts/leakage/near-duplicates.png shows them).\n" in text
    page = (tmp_path / "report/index.html").read_text()
    assert skipped in page
    write_text(artifacts / "data/target/dataset.json", "{")
    with pytest.raises(FrostlineError, match=r"dataset\.json is damaged .* `dvc repro prepare@target`"):
        write_report(_config(), artifacts, tmp_path / "report")
