"""Features that are kept: their bytes, who computes them, what is noticed, and what makes room."""

import errno
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from frostline.base.hashes import content_key
from frostline.console.errors import FrostlineError
from frostline.features import cache as feature_cache
from frostline.features import cache_files
from frostline.features.cache import DTYPES, FeatureCache

ABOUT = {"weights": "ab12", "backbone": "resnet18", "cut": "layer4", "dataset": "pictures", "split": "train"}
PLENTY = 1 << 30
SOURCE = Path(__file__).parents[2]


def features(shape=(10, 3, 2), dtype=torch.float32, seed=0) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn * 20).to(dtype)


def keep(cache: FeatureCache, tensor: torch.Tensor, pieces: int = 4, **about):
    return cache.get({**ABOUT, **about}, tensor.shape, tensor.dtype, lambda: tensor.split(pieces))


def never():
    raise AssertionError("nothing should be computed")


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache(tmp_path / "features", PLENTY)


def only_file(cache: FeatureCache) -> Path:
    (entry,) = cache_files.entries(cache.folder)
    return entry.path


def leftovers(cache: FeatureCache) -> list[str]:
    """Names of files that are neither features nor locks."""
    return [p.name for p in cache.folder.iterdir() if p.suffix not in (".safetensors", ".lock")]


@pytest.fixture
def python(warm: Path) -> Callable[..., subprocess.Popen]:
    """Starts a process that runs a script."""

    def start(script: str, *arguments: object, program: str = str(warm)) -> subprocess.Popen:
        words = [program, "-c", script, *map(str, arguments)]
        variables = {"PYTHONPATH": f"{SOURCE / 'src'}:{SOURCE}", "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=variables, stdout=pipe, stderr=pipe, text=True)

    return start


# ── values and bytes ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cached_features_are_returned(cache, monkeypatch, dtype, mapped):
    if mapped:
        monkeypatch.setattr(feature_cache, "MAPPED_BYTES", 1)
    expected = features(dtype=dtype)
    first, was_there = keep(cache, expected)
    assert not was_there
    again, was_there = cache.get(ABOUT, expected.shape, dtype, never)
    assert was_there
    for got in (first, again):
        assert (got.dtype, got.shape) == (dtype, expected.shape)
        assert torch.equal(got, expected)
    again[0] = 0  # In memory or copy on write: the file stays as it is.
    assert torch.equal(cache.get(ABOUT, expected.shape, dtype, never)[0], expected)


@settings(max_examples=40)
@given(
    inner=st.lists(st.integers(0, 5), max_size=3),
    lengths=st.lists(st.integers(0, 6), max_size=6),
    dtype=st.sampled_from(list(DTYPES)),
    mapped=st.booleans(),
)
def test_any_shape_in_any_pieces(tmp_path_factory, inner, lengths, dtype, mapped):
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), PLENTY)
    expected = features((sum(lengths), *inner), dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_cache, "MAPPED_BYTES", 0 if mapped else PLENTY)
        made, _ = cache.get(ABOUT, expected.shape, dtype, lambda: expected.split(lengths))
        kept, _ = cache.get(ABOUT, expected.shape, dtype, never)
    assert torch.equal(made, expected)
    assert torch.equal(kept, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_safetensors_opens_the_file(cache, dtype):
    expected = features(dtype=dtype)
    keep(cache, expected)
    path = only_file(cache)
    assert path.name == f"{content_key(ABOUT)}.safetensors"
    with safe_open(path, "pt") as opened:
        assert list(opened.keys()) == ["features"]
        assert torch.equal(opened.get_tensor("features"), expected)
        said = opened.metadata()
    payload = expected.view(torch.uint8).numpy().tobytes()
    assert list(said) == ["frostline"]
    assert json.loads(said["frostline"]) == {"about": ABOUT, "sha256": hashlib.sha256(payload).hexdigest()}
    assert path.read_bytes().endswith(payload)


def test_the_same_features_are_the_same_bytes(cache, tmp_path):
    keep(cache, features(), pieces=1)
    other = FeatureCache(tmp_path / "other", PLENTY)
    keep(other, features(), pieces=7)
    assert only_file(cache).read_bytes() == only_file(other).read_bytes()


def test_pieces_that_are_views_or_have_gradients(cache):
    expected = features((6, 4, 4))
    pieces = [expected[:3].requires_grad_(), expected[3:].transpose(1, 2).contiguous().transpose(1, 2)]
    assert torch.equal(cache.get(ABOUT, (6, 4, 4), torch.float32, lambda: pieces)[0], expected)


@pytest.mark.parametrize(
    "pieces",
    [
        [features((3, 2))],
        [features((4, 2)), features((1, 2))],
        [features((4, 3))],
        [features((4,))],
        [features((4, 2), torch.bfloat16)],
    ],
    ids=["too few", "too many", "wider", "flat", "dtype"],
)
def test_pieces_that_do_not_fit_are_refused(cache, pieces):
    with pytest.raises(AssertionError, match=r"torch\.float32 features of \(4, 2\)"):
        cache.get(ABOUT, (4, 2), torch.float32, lambda: pieces)
    assert cache_files.entries(cache.folder) == []
    assert leftovers(cache) == []


def test_another_key_is_another_file(cache):
    keep(cache, features(seed=0), weights="ab12")
    got, was_there = keep(cache, features(seed=1), weights="cd34")
    assert not was_there
    assert torch.equal(got, features(seed=1))
    assert len(cache_files.entries(cache.folder)) == 2


def test_what_fails_leaves_nothing(cache):
    def breaks():
        yield features((5, 2))
        raise RuntimeError("CUDA is tired")

    with pytest.raises(RuntimeError, match="tired"):
        cache.get(ABOUT, (10, 2), torch.float32, breaks)
    assert leftovers(cache) == []
    assert not keep(cache, features((10, 2)))[1]


# ── several processes ───────────────────────────────────────────────────────────────────────────────────────

WORKER = """
import sys, time, torch
from pathlib import Path
from frostline.features.cache import FeatureCache
from tests.features.test_cache import ABOUT, features
folder, marks, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
(marks / f"ready-{name}").touch()
while len(list(marks.glob("ready-*"))) < 4:
    time.sleep(0.01)
def produce():
    (marks / f"computed-{name}").touch()
    for piece in features((20, 8)).split(5):
        time.sleep(0.1)
        yield piece
got, _ = FeatureCache(folder, 1 << 30).get(ABOUT, (20, 8), torch.float32, produce)
assert torch.equal(got, features((20, 8)))
"""


@pytest.mark.slow
def test_of_four_processes_one_computes(tmp_path, python):
    (tmp_path / "marks").mkdir()
    workers = [python(WORKER, tmp_path / "features", tmp_path / "marks", name) for name in range(4)]
    for worker in workers:
        _, err = worker.communicate(timeout=200)
        assert (worker.returncode, err) == (0, "")
    assert len(list((tmp_path / "marks").glob("computed-*"))) == 1


HANGING = """
import sys, time, torch
from pathlib import Path
from frostline.features.cache import FeatureCache
from tests.features.test_cache import ABOUT, features
def produce():
    yield features((5, 8))
    print("half", flush=True)
    time.sleep(100)
FeatureCache(Path(sys.argv[1]), 1 << 30).get(ABOUT, (10, 8), torch.float32, produce)
"""


def test_a_writer_that_is_killed_leaves_nothing_that_is_read(cache, python):
    with python(HANGING, cache.folder) as writer:
        assert writer.stdout.readline() == "half\n"
        assert len(leftovers(cache)) == 1
        assert cache_files.entries(cache.folder) == []
        # It still writes: neither another key's writer nor one who makes room takes that away.
        keep(cache, features(), weights="another")
        cache_files.prune(cache.folder, 0)
        assert len(leftovers(cache)) == 1
        writer.send_signal(signal.SIGKILL)
    got, was_there = keep(cache, features((10, 8)))
    assert not was_there
    assert torch.equal(got, features((10, 8)))
    assert leftovers(cache) == []


def test_leftovers_of_other_keys_go_when_room_is_made(cache):
    keep(cache, features())
    key = "a" * 64
    (cache.folder / f".{key}.x1y2.part").write_bytes(b"half")
    (cache.folder / f"{key}.lock").touch()
    assert cache_files.prune(cache.folder, PLENTY) == []
    assert leftovers(cache) == []


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mapped", [False, True])
def test_damage_at_any_byte_is_noticed_and_repaired(cache, capsys, monkeypatch, mapped):
    if mapped:
        monkeypatch.setattr(feature_cache, "MAPPED_BYTES", 1)
    expected = features()
    keep(cache, expected)
    path = only_file(cache)
    whole = path.read_bytes()
    draw = random.Random(0)
    for at in [0, 8, len(whole) - 1, whole.index(b"sha256") + 15, *draw.sample(range(len(whole)), 40)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        got, was_there = keep(cache, expected)
        assert not was_there, at
        assert torch.equal(got, expected)
        assert path.read_bytes() == whole
        assert re.fullmatch(
            rf"frostline: warning: {path} is damaged \(.*\); it was set aside as .* and is made again\n",
            capsys.readouterr().err,
        )
        assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged


def test_what_was_set_aside_is_the_first_to_go(cache, capsys):
    keep(cache, features())
    path = only_file(cache)
    aside = path.with_name(f"{path.name}.damaged")
    path.write_bytes(path.read_bytes()[:-1])
    keep(cache, features())
    size = path.stat().st_size
    assert cache_files.prune(cache.folder, 2 * size) == []
    assert aside.exists()
    assert cache_files.prune(cache.folder, size) == []
    assert not aside.exists()
    assert path.exists()


@pytest.mark.parametrize(
    "change", [lambda b: b"", lambda b: b[:-1], lambda b: b + b"x", lambda b: b"{}" * 99]
)
def test_a_file_of_another_size_is_replaced(cache, capsys, change):
    keep(cache, features())
    path = only_file(cache)
    path.write_bytes(change(path.read_bytes()))
    assert cache_files.entries(cache.folder)[0].bytes == path.stat().st_size  # It takes room, whatever it is.
    assert not keep(cache, features())[1]
    assert "is damaged" in capsys.readouterr().err


def test_the_content_is_verified_once_a_process(cache, monkeypatch):
    keep(cache, features())
    monkeypatch.setattr(hashlib, "sha256", lambda *_: pytest.fail("hashed again"))
    monkeypatch.setattr(feature_cache, "content_key", lambda about: cache_files.entries(cache.folder)[0].key)
    assert keep(cache, features())[1]
    assert keep(cache, features())[1]


# ── room ────────────────────────────────────────────────────────────────────────────────────────────────────


def names(entries) -> list[str]:
    return [entry.about["split"] for entry in entries]


def test_the_list_shows_cached_entries(cache):
    assert cache_files.entries(cache.folder) == []
    before = time.time()
    keep(cache, features(dtype=torch.bfloat16))
    (entry,) = cache_files.entries(cache.folder)
    assert (entry.key, entry.about) == (content_key(ABOUT), ABOUT)
    assert (entry.shape, entry.dtype) == ((10, 3, 2), "BF16")
    assert entry.bytes == entry.path.stat().st_size
    assert before <= entry.used <= time.time()


def test_the_least_recently_used_make_room(cache):
    for split in "abc":
        keep(cache, features(), split=split)
    keep(cache, features(), split="a")
    assert names(cache_files.entries(cache.folder)) == ["a", "c", "b"]
    size = cache_files.entries(cache.folder)[0].bytes
    cache.limit = 3 * size
    keep(cache, features(), split="d")
    assert names(cache_files.entries(cache.folder)) == ["d", "a", "c"]
    assert names(cache_files.prune(cache.folder, 2 * size - 1)) == ["c", "a"]
    assert names(cache_files.entries(cache.folder)) == ["d"]
    assert names(cache_files.prune(cache.folder, 0)) == ["d"]
    assert cache_files.entries(cache.folder) == cache_files.prune(cache.folder, 0) == []


def test_what_was_just_written_stays_even_if_it_is_larger_than_the_limit(cache):
    cache.limit = 1
    keep(cache, features(), split="a")
    keep(cache, features(), split="b")
    assert names(cache_files.entries(cache.folder)) == ["b"]


def test_what_is_mapped_can_be_removed(cache, monkeypatch):
    monkeypatch.setattr(feature_cache, "MAPPED_BYTES", 1)
    expected = features((1000, 64))
    keep(cache, expected)
    mapped, _ = keep(cache, expected)
    cache_files.prune(cache.folder, 0)
    assert torch.equal(mapped, expected)


def test_files_that_vanish_meanwhile(cache, monkeypatch):
    keep(cache, features(), split="a")
    keep(cache, features(), split="b")
    stat = Path.stat

    def vanishing(path, **options):
        if path.suffix == ".safetensors":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    listed = cache_files.entries(cache.folder)
    monkeypatch.setattr(Path, "stat", vanishing)
    assert cache_files.entries(cache.folder) == []
    monkeypatch.undo()
    monkeypatch.setattr(feature_cache.cache_files, "entries", lambda folder: listed)
    assert names(cache_files.prune(cache.folder, 0)) == ["a", "b"]


def test_features_that_are_removed_before_they_are_read_back(cache, monkeypatch):
    replace = Path.replace

    def replaced(path, target):
        replace(path, target)
        Path(target).unlink()

    monkeypatch.setattr(Path, "replace", replaced)
    assert torch.equal(keep(cache, features())[0], features())


NO_ROOM = (
    r"features: the disk is full; the features need 1 MiB there: make room \(frostline cache prune --to 0\)"
)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence(cache, monkeypatch, error):
    def full(handle: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(feature_cache.os, "fsync", full)
    with pytest.raises(FrostlineError, match=NO_ROOM):
        keep(cache, features())
    assert (cache_files.entries(cache.folder), leftovers(cache)) == ([], [])


def test_too_little_room_is_said_before_anything_is_computed(cache, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: usage(100))
    with pytest.raises(FrostlineError, match=NO_ROOM):
        cache.get(ABOUT, (10, 3), torch.float32, never)


def test_a_disk_that_fills_up_while_pieces_are_written(cache, python):
    script = """
import resource, sys, torch
from pathlib import Path
from frostline.features.cache import FeatureCache
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
pieces = torch.zeros(100, 1000).split(9)
FeatureCache(Path(sys.argv[1]), 1).get({}, (100, 1000), torch.float32, lambda: pieces)
"""
    _, err = python(script, cache.folder).communicate(timeout=100)
    assert re.search(NO_ROOM, err)
    assert leftovers(cache) == []


def test_an_error_of_the_one_who_produces_is_not_taken_for_a_full_disk(cache):
    def produce():
        yield features((5, 2))
        raise OSError(errno.ENOSPC, "elsewhere")

    with pytest.raises(OSError, match="elsewhere"):
        cache.get(ABOUT, (10, 2), torch.float32, produce)


def test_a_folder_that_can_not_be_written_is_read(cache, monkeypatch):
    keep(cache, features())
    used = cache_files.entries(cache.folder)[0].used

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    # Root may write anywhere, so the refusal is played.
    monkeypatch.setattr(feature_cache.os, "access", lambda path, mode: False)
    monkeypatch.setattr(feature_cache.os, "utime", refused)
    got, was_there = keep(cache, features())
    assert was_there
    assert torch.equal(got, features())
    assert cache_files.entries(cache.folder)[0].used == used
    with pytest.raises(FrostlineError, match=rf"^{cache.folder} can't be written .*, or set features=off$"):
        cache.get({}, (1, 1), torch.float32, never)


def test_a_file_where_the_folder_should_be(cache):
    cache.folder.write_text("")
    with pytest.raises(FrostlineError, match=rf"^{cache.folder} can't be written \(File exists\)"):
        keep(cache, features())


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
def test_memory_stays_constant_while_features_are_written_and_verified(tmp_path, python):
    """256 MiB, written and read within 24 MiB more than 1 MiB takes."""
    script = """
import re, sys, torch
from pathlib import Path
from frostline.features import cache as feature_cache
feature_cache.MAPPED_BYTES = 1
cache = feature_cache.FeatureCache(Path(sys.argv[1]), 1 << 30)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
def both(mebibytes):
    for _ in range(2):
        pieces = lambda: (torch.full((1, 1 << 19), i, dtype=torch.bfloat16) for i in range(mebibytes))
        got, _ = cache.get({"n": mebibytes}, (mebibytes, 1 << 19), torch.bfloat16, pieces)
        feature_cache._verified.clear()
    return got
both(1); before = peak(); got = both(256); print(got.nbytes >> 20, peak() - before)
assert (got[:, 5] == torch.arange(256)).all()
"""
    out, err = python(script, tmp_path, program=sys.executable).communicate(timeout=200)
    assert err == ""
    size, more = map(int, out.split())
    assert size == 256
    assert more < 24
