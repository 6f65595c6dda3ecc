import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tests.data.trees import packaged

from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import Index, labelled_rows
from frostline.data.reading.walk import Problem

SPLITS = np.array(["train", "val", "test", "train", "train", "train"])


def an_index(**changes: object) -> Index:
    index = Index(
        name="mine",
        kind="image_folder",
        storage="files",
        classes=("a", "b"),
        keys=["a/1.png", 'a/comma,"quote".png', "a/猫.png", "b/1.png", "b/2.png", "b/3.png"],
        labels=np.array([0, 0, 0, 1, 1, 1]),
        splits=SPLITS,
        sha256=[f"{i:064x}" for i in range(6)],
        widths=[4] * 6,
        heights=[5] * 6,
        modes=["RGB"] * 6,
        warnings=("1 thing was odd",),
        skipped=(Problem("a/0.png", "is empty: mend it"),),
    )
    return replace(index, **changes)


def test_what_is_written_is_read(tmp_path):
    index = an_index()
    index.write(tmp_path)
    read = Index.read(tmp_path)
    for field in (
        "name",
        "kind",
        "storage",
        "classes",
        "keys",
        "sha256",
        "widths",
        "heights",
        "modes",
        "warnings",
    ):
        assert getattr(read, field) == getattr(index, field)
    assert read.skipped == index.skipped
    assert (read.labels == index.labels).all()
    assert (read.splits == index.splits).all()
    assert read.fingerprint == index.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json", "index.csv"]


def test_bytes_repeat_and_name_no_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        an_index().write(tmp_path / name)
    for name in ("dataset.json", "index.csv"):
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert str(tmp_path).encode() not in content


def test_the_summary_is_for_people(tmp_path):
    an_index().write(tmp_path)
    summary = json.loads((tmp_path / "dataset.json").read_text())
    assert summary["counts"] == {"train": {"a": 1, "b": 3}, "val": {"a": 1, "b": 0}, "test": {"a": 1, "b": 0}}
    assert summary["skipped"] == [{"key": "a/0.png", "reason": "is empty: mend it"}]


@pytest.mark.parametrize(
    "change",
    [
        {"keys": [f"{i}" for i in range(6)]},
        {"labels": np.array([0, 0, 1, 1, 1, 1])},
        {"splits": SPLITS[::-1]},
        {"sha256": ["0" * 64] * 6},
        {"classes": ("a", "c")},
        {"skipped": ()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_covers(change):
    assert an_index(**change).fingerprint != an_index().fingerprint


@pytest.mark.parametrize(
    "change",
    [{"name": "yours"}, {"warnings": ()}, {"skipped": (Problem("a/0.png", "in other words"),)}],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_does_not_cover(change):
    assert an_index(**change).fingerprint == an_index().fingerprint


def test_rows():
    assert an_index().rows("train").tolist() == [0, 3, 4, 5]
    assert an_index().rows("val").tolist() == [1]


def test_arrays_are_stored_beside_the_index(tmp_path):
    images = np.arange(6 * 5 * 4, dtype=np.uint8).reshape(6, 5, 4)
    an_index(storage="arrays").write(tmp_path, images)
    assert (Index.read(tmp_path).images(tmp_path) == images).all()


@pytest.mark.parametrize("damage", ["truncated", "missing", "foreign"])
def test_damaged_arrays_are_named(tmp_path, damage):
    an_index(storage="arrays").write(tmp_path, np.zeros((6, 5, 4), np.uint8))
    path = tmp_path / "images.npy"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "missing":
        path.unlink()
    else:
        np.save(path, np.zeros((7, 5, 4), np.uint8))
    with pytest.raises(
        FrostlineError, match=r"images\.npy (is missing or damaged|doesn't belong to .*): run prepare"
    ):
        Index.read(tmp_path)


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(FrostlineError, match=r"dataset\.json is missing: run the stage that makes it"):
        Index.read(tmp_path)
    an_index().write(tmp_path)
    (tmp_path / "index.csv").unlink()
    with pytest.raises(FrostlineError, match=r"index\.csv is missing: run prepare again"):
        Index.read(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"train", b"test"),
        (b"a/1.png,0", b"a/1.png,1"),
        (b"a/1.png,0", b"a/1.png,cat"),
        (b"key,", b"name,"),
        (b"b/3.png", b"b/3.p\xff"),
        (b",4,5,RGB\n", b"\n"),
        (b"a/1.png", b"a/1\0.png"),
    ],
)
def test_a_damaged_index_is_named(tmp_path, old, new):
    an_index().write(tmp_path)
    path = tmp_path / "index.csv"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(FrostlineError, match=r"index\.csv is damaged .*: run prepare again"):
        Index.read(tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"format": 0}'])
def test_another_versions_index_is_refused(tmp_path, text):
    an_index().write(tmp_path)
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(
        FrostlineError, match=r"dataset\.json is of another version of frostline: run prepare again"
    ):
        Index.read(tmp_path)


def test_a_summary_without_its_fields_is_refused(tmp_path):
    an_index().write(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 1}')
    with pytest.raises(FrostlineError, match="is damaged"):
        Index.read(tmp_path)


def test_labelled_rows():
    n = 40
    index = an_index(
        keys=[str(i) for i in range(n)],
        labels=np.arange(n) % 2,
        splits=np.array(["train", "train", "train", "val"] * 10),
        sha256=["0" * 64] * n,
        widths=[4] * n,
        heights=[4] * n,
        modes=["L"] * n,
    )
    all_rows = labelled_rows(index, packaged("digits").dataset, 0)
    assert all_rows.tolist() == index.rows("train").tolist()
    shots = labelled_rows(index, packaged("digits", shots=3).dataset, 0)
    assert np.bincount(index.labels[shots]).tolist() == [3, 3]
    assert set(index.splits[shots]) == {"train"}
    assert set(labelled_rows(index, packaged("digits", shots=2).dataset, 0)) < set(shots)
    assert set(labelled_rows(index, packaged("digits", shots=3).dataset, 1)) != set(shots)
    share = labelled_rows(index, packaged("digits", fraction=0.5).dataset, 0)
    assert np.bincount(index.labels[share]).tolist() == [10, 5]
    with pytest.raises(
        FrostlineError, match=re.escape("dataset.shots=11: class 'b' has only 10 training images")
    ):
        labelled_rows(index, packaged("digits", shots=11).dataset, 0)


# ── many rows ───────────────────────────────────────────────────────────────────────────────────────────────

CHILD = """
import sys
from pathlib import Path
from frostline.data.prepared.index import Index

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

before = peak()
assert len(Index.read(Path(sys.argv[1]))) == int(sys.argv[2])
print((peak() - before) >> 10)
"""


@pytest.mark.parametrize("optional", [False, True])
def test_the_fingerprint_is_that_of_the_whole_json(optional, monkeypatch):
    """It is hashed in blocks; those of earlier versions were not."""
    monkeypatch.setattr("frostline.data.prepared.index._BLOCK", 4)
    index = an_index()
    more = []
    if optional:
        weights, folds = np.arange(6) / 4, np.array([["train", "test"]] * 6)
        index = replace(index, weights=weights, groups=np.array(list("aabbcc")), fold_splits=folds)
        more = [weights.tolist(), list("aabbcc"), ["train"] * 6, ["test"] * 6]
    splits = ["train"] * 6 if optional else SPLITS.tolist()
    rows = list(zip(index.keys, index.labels.tolist(), splits, index.sha256, strict=True))
    content = [index.classes, rows, ["a/0.png"], *more]
    expected = hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
    assert index.fingerprint == expected


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_hundred_thousand_rows_are_read_in_60_mib(tmp_path):
    """A million take ten times that; as dictionaries of cells, they took 1.2 GiB."""
    count = 100_000
    rows = np.arange(count)
    an_index(
        keys=[f"class {i % 100}/pictures/picture {i:08d}.jpg" for i in range(count)],
        labels=rows % 2,
        splits=SPLITS[rows % 6],
        sha256=[hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)],
        widths=(300 + rows % 500).tolist(),
        heights=(300 + rows % 400).tolist(),
        modes=["RGB"] * count,
    ).write(tmp_path)
    words = [sys.executable, "-c", CHILD, str(tmp_path), str(count)]
    assert int(subprocess.run(words, capture_output=True, text=True, check=True).stdout) < 60
