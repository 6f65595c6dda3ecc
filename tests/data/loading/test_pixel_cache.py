"""Shards within a limit: what is read equals the source, whatever is cached, and whoever was killed."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.base import project
from frostline.console.errors import FrostlineError
from frostline.console.progress import no_progress, say_once
from frostline.data.loading import pixel_cache
from frostline.data.loading.pixel_cache import PixelCache, Wanted, make_room, open_or_make
from frostline.data.loading.pixel_files import Layout

ROOT = Path(__file__).parents[3]
IMAGE = 3 * 4 * 5
SOURCE = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 5), dtype=np.uint8)


class Source:
    """Images to cache; counts how often each is made."""

    def __init__(self, images=SOURCE) -> None:
        self.images, self.made = images, np.zeros(len(images), dtype=int)

    def make(self, row: int):
        self.made[row] += 1
        return self.images[row]

    @property
    def wanted(self) -> Wanted:
        return Wanted(Layout(self.images.shape, self.images.dtype), self.make, "resizing cats", "cats")


def opened(folder: Path, source: Source, key: str = "cats") -> PixelCache:
    return open_or_make(folder / key, source.wanted, no_progress)


def shards(folder: Path, key: str = "cats") -> list[str]:
    return sorted(path.name for path in folder.glob(f"{key}.*.npy"))


@pytest.fixture(autouse=True)
def ten_images_a_shard(monkeypatch):
    monkeypatch.setattr(pixel_cache, "SHARD_BYTES", 10 * IMAGE)
    say_once.cache_clear()


def limited(monkeypatch, byte_count: int) -> None:
    monkeypatch.setenv("FROSTLINE_PIXELS_GIB", repr(byte_count / project.GIB))


SHARD = Layout((10, 3, 4, 5), np.dtype("u1")).file_size


def test_images_are_cached_in_shards_and_made_once(tmp_path):
    source = Source()
    cache = opened(tmp_path, source)
    assert shards(tmp_path) == [f"cats.{number:03}.npy" for number in range(4)]
    assert (np.load(tmp_path / "cats.002.npy") == SOURCE[20:30]).all()
    rows = np.array([39, 0, 9, 10, 10, 25])
    assert (cache.read(rows).numpy() == SOURCE[rows]).all()
    assert (opened(tmp_path, source).read(np.arange(40)).numpy() == SOURCE).all()
    assert (source.made == 1).all()


def test_a_large_set_has_a_bounded_number_of_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_cache, "MOST_SHARDS", 3)
    opened(tmp_path, source := Source())
    assert [len(np.load(tmp_path / name)) for name in shards(tmp_path)] == [14, 14, 12]
    assert (source.made == 1).all()


@settings(max_examples=25)
@given(
    length=st.integers(1, 50),
    cached=st.integers(0, 41),
    rows=st.lists(st.integers(0, 39), max_size=60),
    sixteen=st.booleans(),
)
def test_what_is_read_is_the_source_whatever_is_cached(tmp_path_factory, length, cached, rows, sixteen):
    source = Source(SOURCE.astype(np.uint16) * 257 if sixteen else SOURCE)
    size = IMAGE * source.images.itemsize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_cache, "SHARD_BYTES", length * size)
        limited(patch, cached * (size + 4) + 1)
        cache = opened(tmp_path_factory.mktemp("cache"), source)
    read = cache.read(np.array(rows, dtype=np.int64)).numpy()
    assert (read.dtype, read.shape) == (source.images.dtype, (len(rows), 3, 4, 5))
    assert (read == source.images[rows]).all()
    assert cache.cached <= cached


def test_beyond_the_limit_images_are_made_at_each_read(tmp_path, monkeypatch, capsys):
    limited(monkeypatch, 2 * SHARD + 1)
    source = Source()
    cache = opened(tmp_path, source)
    assert shards(tmp_path) == ["cats.000.npy", "cats.001.npy"]
    assert cache.cached == 20
    for _ in range(2):
        assert (cache.read(np.arange(40)).numpy() == SOURCE).all()
    assert (source.made == np.repeat([1, 2], 20)).all()
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning == (
        "frostline: warning: 20 of 40 images of cats are decoded each time they are used, since the limit of"
        f" cached images is {(2 * SHARD + 1) / 1024:.3g} KiB and they take {2 * SHARD / 1024:.3g} KiB more;"
        " raise FROSTLINE_PIXELS_GIB to cache them"
    )
    limited(monkeypatch, 10**6)  # Now there is room: what is cached stays, the rest is added.
    opened(tmp_path, source)
    assert len(shards(tmp_path)) == 4
    assert (source.made == np.repeat([1, 3], 20)).all()


def test_the_least_recently_used_cache_makes_room(tmp_path, monkeypatch):
    limited(monkeypatch, 9 * SHARD)
    for age, key in enumerate(("new", "old")):
        opened(tmp_path, Source(), key)
        os.utime(tmp_path / f"{key}.used", (1000 - age, 1000 - age))
    opened(tmp_path, Source(), "third")
    assert [len(shards(tmp_path, key)) for key in ("old", "new", "third")] == [0, 4, 4]
    opened(tmp_path, Source(), "new")  # Its time of last use is now.
    opened(tmp_path, Source(), "fourth")
    assert [len(shards(tmp_path, key)) for key in ("new", "third", "fourth")] == [4, 0, 4]


def test_a_cache_in_use_does_not_make_room(tmp_path, monkeypatch, capsys):
    limited(monkeypatch, 5 * SHARD)
    first = opened(tmp_path, Source(), "first")
    second = opened(tmp_path, Source(), "second")
    assert (first.cached, second.cached) == (40, 10)
    assert "30 of 40 images of cats are decoded" in capsys.readouterr().err
    del first
    assert make_room(tmp_path, 5 * SHARD, 3 * SHARD, keep="second") == 4 * SHARD
    assert shards(tmp_path, "first") == []
    assert (second.read(np.arange(40)).numpy() == SOURCE).all()


def test_damaged_files_and_those_of_earlier_versions_make_room(tmp_path):
    (tmp_path / "one.npy").write_bytes(bytes(1000))
    (tmp_path / "two.000.npy.damaged").write_bytes(bytes(1000))
    assert make_room(tmp_path, 1500, 500, keep="three") == 500
    assert sorted(path.name for path in tmp_path.glob("*.npy*")) == ["one.npy", "two.000.npy.damaged"]
    assert make_room(tmp_path, 1500, 501, keep="three") == 1500
    assert list(tmp_path.glob("*.npy*")) == []


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number(tmp_path, monkeypatch, text):
    monkeypatch.setenv("FROSTLINE_PIXELS_GIB", text)
    with pytest.raises(FrostlineError) as raised:
        opened(tmp_path, Source())
    assert str(raised.value) == f"FROSTLINE_PIXELS_GIB: found {text!r}; give a positive number, such as 50"


def test_the_default_limit_is_not_lowered_by_caching(tmp_path):
    before = project.pixels_limit(tmp_path)
    (tmp_path / "a.000.npy").write_bytes(bytes(50 << 20))
    assert project.pixels_limit(tmp_path) == pytest.approx(before, rel=0.2)


def test_progress_counts_the_images_that_are_missing(tmp_path):
    told: list[object] = []

    @contextmanager
    def progress(description: str, total: int):
        told.append((description, total))
        yield lambda n=1, note="": told.append(n)

    opened(tmp_path, Source())
    (tmp_path / "cats.001.npy").unlink()
    open_or_make(tmp_path / "cats", Source().wanted, progress)
    assert told == [("resizing cats", 10), *[1] * 10]


CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
from tests.data.loading import test_pixel_cache as tests
tests.pixel_cache.SHARD_BYTES = 10 * tests.IMAGE
source, fatal = tests.Source(), int(sys.argv[2])
make = source.make
def dying(row):
    if row == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(row)
source.make = dying
cache = tests.opened(Path(sys.argv[1]), source)
assert (cache.read(np.arange(40)).numpy() == tests.SOURCE).all()
print(source.made.sum())
"""


@pytest.fixture
def child(warm: Path, tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Starts a process that opens the cache, and kills itself when it makes an image."""

    def start(fatal: int = -1) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [warm, "-c", CHILD, str(tmp_path), str(fatal)],
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_killed_writer_leaves_whole_shards_and_the_next_one_makes_the_rest(child, tmp_path):
    with child(fatal=25) as killed:
        assert killed.wait() == 128 + signal.SIGKILL
    assert shards(tmp_path) == ["cats.000.npy", "cats.001.npy"]
    source = Source()
    cache = opened(tmp_path, source)
    assert (source.made == np.repeat([0, 1], 20)).all()
    assert (cache.read(np.arange(40)).numpy() == SOURCE).all()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_two_processes_make_each_image_once(child, tmp_path):
    with child() as first, child() as second:
        made = [int(process.communicate()[0]) for process in (first, second)]
    assert sorted(made) == [0, 40]
    assert len(shards(tmp_path)) == 4
