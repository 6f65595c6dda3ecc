"""`frostline cache`: what it lists, what it removes, and what a process that uses it notices of that."""

import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostline.base import project
from frostline.base.locks import exclusive
from frostline.commands import cache_actions
from frostline.commands.cache_actions import bytes_of
from frostline.commands.main import EXIT_USER, main
from frostline.console.units import UNITS, size
from frostline.features import cache_files
from frostline.features.cache import FeatureCache

ABOUT = {"backbone": "resnet18", "cut": "layer4", "dataset": "pictures", "weights": "ab12"}
MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FROSTLINE_CACHE_GIB", raising=False)
    monkeypatch.delenv("FROSTLINE_TRACEBACK", raising=False)
    return tmp_path


@pytest.fixture
def say(capsys):
    """Type a command; return what it prints."""

    def say(*words: str, status: int = 0) -> str:
        try:
            exit_status = main(["cache", *words])
        except SystemExit as left:
            exit_status = left.code
        out, err = capsys.readouterr()
        assert exit_status == status, err
        return err if status else out

    return say


def keep(split: str, images: int = 1000, seconds_ago: float = 0) -> Path:
    cache = FeatureCache(project.features_dir(), 1 << 30)
    features = torch.zeros(images, 64, 2, dtype=torch.bfloat16)
    cache.get({**ABOUT, "split": split}, features.shape, features.dtype, lambda: [features])
    path = cache_files.entries(cache.folder)[0].path
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return path


def keep_pixels(name: str, size: int = 2048) -> Path:
    path = project.scratch() / "pixels" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def rows(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def test_an_empty_cache(say, here):
    assert say() == cache_actions.NO_FEATURES + "\n"
    assert say("prune").startswith("nothing to remove: 0 B of features, and ")
    assert say("clear").startswith("removed 0 files of features and 0 of pixels: freed 0 B; ")
    assert list(here.iterdir()) == []


def test_cached_features_are_listed_the_most_recently_used_first(say, monkeypatch):
    keep("train", seconds_ago=2 * DAY + HOUR)
    key = keep("val", images=400, seconds_ago=3 * MINUTE).stem
    (project.features_dir() / f"{'f' * 64}.safetensors").write_bytes(b"{}")
    keep_pixels("a.npy")
    keep_pixels("b.npy")
    monkeypatch.setenv("FROSTLINE_CACHE_GIB", "1.5")
    monkeypatch.setenv("FROSTLINE_PIXELS_GIB", "7")
    head, damaged, val, train, _, features, pixels, hint = rows(say())
    assert head == ["features", "images × shape", "type", "size", "last used", "key"]
    assert damaged == ["a damaged file", "?", "?", "2 B", "just now", "f" * 12]
    what = "resnet18 · layer4 · pictures · val"
    assert val == [what, "400 × 64×2", "bf16", "100 KiB", "3 min ago", key[:12]]
    assert train[:5] == [what[:-3] + "train", "1,000 × 64×2", "bf16", "250 KiB", "2 days ago"]
    assert features == ["features: 351 KiB of at most 1.5 GiB (FROSTLINE_CACHE_GIB)"]
    assert pixels == ["pixels:", "4 KiB of at most 7 GiB (FROSTLINE_PIXELS_GIB), in 2 files"]
    assert hint == ["to make room: frostline cache prune --to 1GiB, or frostline cache clear"]


def test_the_list_for_scripts(say, monkeypatch):
    path = keep("train")
    keep_pixels("a.npy")
    monkeypatch.setenv("FROSTLINE_CACHE_GIB", "2")
    size = path.stat().st_size
    entry = {
        "key": path.stem,
        "about": {**ABOUT, "split": "train"},
        "shape": [1000, 64, 2],
        "dtype": "BF16",
        "bytes": size,
        "used": path.stat().st_mtime,
        "path": str(path),
    }
    features = {"folder": str(path.parent), "limit": 2 << 30, "bytes": size, "entries": [entry]}
    assert json.loads(say("--format", "json")) == {
        "features": features,
        "pixels": {"files": 1, "bytes": 2048},
    }
    freed = {"removed": [entry], "freed": size}
    assert json.loads(say("prune", "--to", "0", "--format", "json")) == {**freed, "bytes": 0}
    entry["used"] = keep("train").stat().st_mtime
    cleared = {"removed": [entry], "pixels": {"files": 1, "bytes": 2048}, "freed": size + 2048}
    assert json.loads(say("clear", "--format", "json")) == cleared


def test_prune_removes_the_least_recently_used(say, monkeypatch):
    paths = [keep(split, seconds_ago=age * HOUR) for split, age in (("train", 5), ("val", 9), ("test", 2))]
    pixels = keep_pixels("a.npy")
    assert say("prune", "--to", "600KiB") == (
        "removed resnet18 · layer4 · pictures · val: 250 KiB, used 9 h ago\n"
        "freed 250 KiB, 501 KiB of features remain\n"
    )
    assert [path.exists() for path in paths] == [True, False, True]
    assert re.fullmatch(r"nothing to remove: 501 KiB of features, and the limit is .*\n", say("prune"))
    monkeypatch.setenv("FROSTLINE_CACHE_GIB", "0.0003")
    assert "· train: 250 KiB, used 5 h ago\n" in say("prune")
    assert say("prune", "--to", "0").endswith("freed 250 KiB, 0 B of features remain\n")
    assert pixels.exists()


def test_clear_removes_what_was_set_aside(say):
    pixels, data = keep_pixels("a.npy.damaged"), project.scratch() / "data" / "a.damaged"
    data.mkdir(parents=True)
    say("clear")
    assert not pixels.exists()
    assert not data.exists()


def test_clear_removes_pixels_too_but_not_what_is_being_written(say):
    keep("train")
    gone = [keep_pixels("a.npy"), keep_pixels("a-0123.npy"), keep_pixels(".a.npy.x1y2")]
    stays = [keep_pixels("b.npy"), keep_pixels(".b.npy.x1y2")]
    with exclusive(project.scratch() / "pixels" / "b.lock"):
        out = say("clear")
    assert out.startswith("removed 1 file of features and 3 of pixels: freed 256 KiB; ")
    assert [path.exists() for path in gone + stays] == [False] * 3 + [True] * 2
    assert cache_files.entries(project.features_dir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prune", "--to", "5"], "argument --to: found 5; give a size such as 5GiB or 500MiB, or 0; see "),
        (["prune", "--to=-1GiB"], "argument --to: found -1GiB; give a size"),
        (["prune", "--to", "5GB"], "argument --to: found 5GB; give a size"),
        (["prun"], "ACTION: there is no 'prun'; did you mean 'prune'?"),
        (["--format", "yaml"], "--format: there is no 'yaml'; allowed: json, table"),
        (["clear", "--to", "0"], "unrecognized arguments: --to 0; see frostline cache clear --help"),
    ],
)
def test_a_mistake_is_a_sentence(say, words, sentence):
    err = say(*words, status=EXIT_USER)
    assert err.startswith(f"frostline: error: {sentence}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("value", ["x", "0", "-1", "nan", "inf", "1e308"])
def test_a_limit_that_is_none(say, monkeypatch, value):
    monkeypatch.setenv("FROSTLINE_CACHE_GIB", value)
    assert say(status=EXIT_USER) == (
        f"frostline: error: FROSTLINE_CACHE_GIB: found '{value}'; give a positive number, such as 20; "
        "features=off caches no features\n"
    )


def test_the_limit_is_at_most_a_quarter_of_the_room(monkeypatch):
    size = keep("train").stat().st_size
    for free, limit in ((400 << 30, 20 << 30), (8 << 30, (2 << 30) + size // 4), (0, size // 4)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(project.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert project.features_limit() == limit


def test_a_folder_that_can_not_be_written_is_named(say, monkeypatch):
    path = keep("train")

    def refused(self, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refused)
    assert say("clear", status=EXIT_USER).startswith(f"frostline: error: {path}: Permission denied; ")


@given(st.integers(0, 999), st.sampled_from(UNITS))
def test_a_size_that_is_printed_can_be_typed(number, unit):
    assert size(bytes_of(f"{number}{unit}")) == f"{number} {unit if number else 'B'}"


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("0.0", 0), ("1b", 1), ("1.5 kib", 1536), ("5GiB", 5 << 30), (" 2TiB ", 2 << 40)],
)
def test_sizes(text, count):
    assert bytes_of(text) == count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-5, "just now"), (59, "just now"), (61, "1 min ago"), (59 * MINUTE + 59, "59 min ago")),
        *((HOUR, "1 h ago"), (23.9 * HOUR, "23 h ago"), (DAY, "1 day ago"), (2.5 * DAY, "2 days ago")),
    ],
)
def test_times(monkeypatch, seconds, text):
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert cache_actions.ago(1e9 - seconds) == text
