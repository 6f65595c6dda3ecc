"""YAML as OmegaConf reads it; checksums; folders that are published whole; what killed processes leave."""

import io
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tests.damage import DAMAGE

from frostline.base import files, formats
from frostline.base.files import files_below, link_or_copy, set_aside, write_text
from frostline.base.formats import read_yaml, yaml_text
from frostline.console.errors import FrostlineError

SRC = Path(__file__).parents[2] / "src"
SCALARS = """
1e-5 1E5 1e5 -2e+3 +1.5e3 1.e3 1.5e-3 1.0e-5 .5e+3 0.5 .5 -1. 10 -3 08 0x1f 1_000 0o17 .inf -.INF .nan
e5 1e 1e5x 0e 1.2.3 2024-01-01 2024-01-01T10:00:00Z yes Off null ~ true text 1e-5.0 12e45 "1e5" '08'
"""


@pytest.fixture
def reading(tmp_path):
    """Write a text, and read it."""

    def read(text):
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        return read_yaml(tmp_path / "a.yaml")

    return read


@pytest.mark.parametrize("scalar", SCALARS.split())
def test_a_value_is_what_omegaconf_takes_it_for(scalar, reading):
    expected = OmegaConf.to_container(OmegaConf.load(io.StringIO(f"key: {scalar}\n")))
    assert repr(reading(f"key: {scalar}\n")) == repr(expected)


def test_numbers_with_an_exponent_are_numbers(reading):
    assert reading("[1e-5, 1e5, 1E5, -2e+3, '1e5']") == [1e-5, 1e5, 1e5, -2000.0, "1e5"]


# Not the control characters, which PyYAML writes and reads in its own way.
TEXT = st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" \n"))
DATA = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        TEXT,
        st.from_regex(r"[-+.0-9eE]{1,6}", fullmatch=True),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


@given(DATA, st.booleans())
def test_what_is_written_reads_back(tmp_path_factory, data, flow):
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_bytes(yaml_text(data, flow=flow).encode())
    assert read_yaml(path) == data


def test_a_merged_mapping_is_no_duplicate(reading):
    text = "base: &base {x: 1, y: 1}\na: {own: &own {<<: *base, x: 2}}\nb: {<<: *own, y: 3}\n"
    read = reading(text)
    assert (read["a"]["own"], read["b"]) == ({"x": 2, "y": 1}, {"x": 2, "y": 3})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: {c: 1,\n  c: 2}\n", "a.yaml: line 3: found duplicate key c; fix the YAML"),
        ("a: 1\na: 1\n", "a.yaml: line 2: found duplicate key a; fix the YAML"),
        ("- 1\n- {1: a, 1: b}\n", "a.yaml: line 2: found duplicate key 1; fix the YAML"),
        ("a: 1\n- b\n", "a.yaml: line 2: expected <block end>, but found '-'; fix the YAML"),
        (
            "a: !!python/name:os.system\n",
            "a.yaml: line 1: found the tag !!python/name:os.system; configs are",
        ),
        ("? [a]\n: 1\n", "a.yaml: line 1: found unhashable key; fix the YAML"),
        ("a: 0x" + "f" * 6000, "a.yaml: line 1: found a number of 6002 characters; give a shorter one"),
        ("a: \x00\n", "a.yaml: unacceptable character #x0000: special characters are not allowed"),
    ],
)
def test_what_is_not_yaml_is_one_sentence(text, sentence, reading, tmp_path):
    with pytest.raises(FrostlineError) as caught:
        reading(text)
    assert str(caught.value).startswith(f"{tmp_path}/{sentence}")
    assert "\n" not in str(caught.value)


def test_what_can_not_be_read_is_one_sentence(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    for name, reason in [
        ("nothing.yaml", "No such file or directory"),
        (".", "Is a directory"),
        ("latin.yaml", "not UTF-8"),
    ]:
        with pytest.raises(FrostlineError) as caught:
            read_yaml(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name} can't be read ({reason}); name another file"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 6000, "Exceeds the limit"),
        (b"\xff", "'utf-8' codec"),
        (b"{", "Expecting property name"),
    ],
)
def test_what_is_not_json_is_one_sentence(content, reason, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(FrostlineError, match=rf"a\.json is not valid JSON \({reason}.*: run the stage that"):
        formats.read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("id,class\na,Äpfel\n".encode("latin-1"), r"a\.csv can't be read \('utf-8' codec .*; restore it"),
        (b"id\n" + b"x" * 200_000, r"a\.csv can't be read \(field larger than .*; restore it"),
        (b"name;class\na;b\n", r"a\.csv has no column 'id', .*; restore it"),
        (b"", r"a\.csv has no column 'id', .*; restore it"),
    ],
)
def test_a_table_that_another_program_saved_is_one_sentence(content, sentence, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(FrostlineError, match=sentence):
        formats.read_csv(tmp_path / "a.csv", ["id"])


@pytest.mark.parametrize("links", [True, False])
def test_a_shared_file_stays_what_it_was_when_the_other_is_written_again(links, tmp_path, monkeypatch):
    if not links:

        def refuse(*_):
            raise PermissionError("no hard links here")

        monkeypatch.setattr("os.link", refuse)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("first")
    other.write_text("of another run")
    link_or_copy(one, other)
    assert one.samefile(other) == links
    write_text(one, "second")
    assert (one.read_text(), other.read_text()) == ("second", "first")


@pytest.mark.parametrize("older", [None, "file", "folder"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_damaged_is_set_aside_with_one_warning(tmp_path, capsys, kind, older):
    def make(path, kind, content):
        if kind == "file":
            path.write_text(content)
        else:
            path.mkdir()
            (path / "inside").write_text(content)

    path, aside = tmp_path / "cached.npy", tmp_path / "cached.npy.damaged"
    make(path, kind, "new")
    if older:
        make(aside, older, "old")
    set_aside(path, "is damaged")
    assert not path.exists()
    assert (aside if kind == "file" else aside / "inside").read_text() == "new"
    warning = f"frostline: warning: {path} is damaged; it was set aside as {aside.name} and is made again"
    assert capsys.readouterr().err.splitlines() == [warning]


def test_what_is_gone_is_not_set_aside(tmp_path, capsys):
    set_aside(tmp_path / "gone", "is damaged")
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


# ── folders of files with checksums ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", ["weights", "in/metrics.json", files.CHECKSUMS])
def test_a_sealed_folder_is_sound_until_it_is_damaged(name, damage, tmp_path, capsys):
    folder = tmp_path / "cached"
    assert not files.is_intact(folder)
    write_text(folder / "weights", "numbers" * 99)
    write_text(folder / "in/metrics.json", "{}")
    files.write_checksums(folder)
    assert files.is_intact(folder)
    assert files.is_intact(folder)
    damage(folder / name)
    assert not files.is_intact(folder)
    assert not folder.exists()
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"frostline: warning: {folder} ")
    assert Path(name).name in said or name == files.CHECKSUMS
    assert said.endswith("; it was set aside as cached.damaged and is made again")


# ── publishing into a folder that is there ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("exchanges", [True, False])
def test_what_was_not_written_again_stays_unless_it_is_replaced(exchanges, tmp_path, monkeypatch):
    if not exchanges:
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    out = tmp_path / "out"
    write_text(out / "metrics.json", "old")
    write_text(out / "heads.csv", "of a probe")
    write_text(out / "notes/mine.txt", "a note")
    (out / "link").symlink_to("nowhere")
    (out / "empty").mkdir()
    with files.publish(out, {"heads.csv"}) as work:
        write_text(work / "metrics.json", "new")
        write_text(work / "seed-1/weights", "w")
        assert (out / "metrics.json").read_text() == "old"
    assert (out / "metrics.json").read_text() == "new"
    assert (out / "seed-1/weights").read_text() == "w"
    assert (out / "notes/mine.txt").read_text() == "a note"
    assert (out / "link").readlink() == Path("nowhere")
    assert (out / "empty").is_dir()
    assert not (out / "heads.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from frostline.base import files
out, step = Path(sys.argv[1]), int(sys.argv[2])
files.exchange = lambda one, other: False

def counting(method):
    def counted(path, *args, **options):
        global step
        if step == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        step -= 1
        return method(path, *args, **options)
    return counted

with files.publish(out, {"heads.csv"}) as work:
    for name in ("weights", "metrics.json", "training.json"):
        (work / name).write_text("new")
    Path.unlink, Path.replace = counting(Path.unlink), counting(Path.replace)
"""


def test_killed_between_any_two_steps_without_an_exchange_leaves_a_whole_run_or_an_unfinished_one(tmp_path):
    out = tmp_path / "out"
    old, new = dict.fromkeys(("weights", "metrics.json", "training.json", "heads.csv"), "old"), {}
    seen = []
    for step in range(20):
        for name in old:
            write_text(out / name, "old")
        status = subprocess.run(
            [sys.executable, "-c", KILLED, str(out), str(step)], env={"PYTHONPATH": str(SRC)}, check=False
        ).returncode
        new = {path.name: path.read_text() for path in out.iterdir()}
        seen.append("old" if new == old else "unfinished" if "training.json" not in new else "new")
        files.remove_temporary(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert new == dict.fromkeys(("weights", "metrics.json", "training.json"), "new")
    assert seen == ["old", *["unfinished"] * (len(seen) - 2), "new"]
    assert len(seen) == 6


def test_a_reader_sees_the_old_files_or_the_new_ones(tmp_path):
    """Another process publishes again and again; both files are always of one round."""
    out = tmp_path / "out"
    code = (
        "import itertools, sys; from pathlib import Path; from frostline.base.files import publish\n"
        "for i in itertools.count():\n"
        " with publish(Path(sys.argv[1])) as work:\n"
        "  for name in 'ab': (work / name).write_text(str(i))\n"
        " print(i, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(out)]
    with subprocess.Popen(command, env={"PYTHONPATH": str(SRC)}, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        rounds = set()
        for _ in range(300):
            folder = os.open(out, os.O_RDONLY)
            pair = []
            for name in "ab":
                with suppress(FileNotFoundError):  # the folder was exchanged, and is being removed
                    handle = os.open(name, os.O_RDONLY, dir_fd=folder)
                    with os.fdopen(handle) as stream:
                        pair.append(stream.read())
            os.close(folder)
            assert len(set(pair)) <= 1
            rounds |= set(pair)
        process.kill()
        process.stdout.close()
    assert len(rounds) > 1


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "disk/run").mkdir(parents=True)
    (tmp_path / "out").symlink_to("disk/run")
    with files.publish(tmp_path / "out") as work:
        write_text(work / "a", "1")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk/run/a").read_text() == "1"


def test_a_shell_inside_the_folder_stays_in_it(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with files.publish(Path()) as work:
        write_text(work / "a", "1")
    assert Path("a").read_text() == "1"


# ── what killed processes leave ─────────────────────────────────────────────────────────────────────────────

LEAVES = """
import os, signal, sys
from pathlib import Path
from frostline.base import files
folder = Path(sys.argv[1])
def end(*_):
    print("up", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = end
with files.publish(folder / "out") as work:
    files.write_text(folder / "table.csv", "half")
"""


def test_temporary_files_are_removed_when_their_process_is_dead_and_not_before(tmp_path):
    names = lambda: sorted(path.name.rpartition(".")[0] or path.name for path in tmp_path.iterdir())  # noqa: E731
    (tmp_path / ".table.csv.original").write_text("the user's")
    with subprocess.Popen(
        [sys.executable, "-c", LEAVES, str(tmp_path)],
        env={"PYTHONPATH": str(SRC)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "up\n"
        files.remove_temporary(tmp_path)
        assert len(names()) == 3
        process.stdin.write("\n")
    files.remove_temporary(tmp_path, "out")
    assert len(names()) == 2
    write_text(tmp_path / "table.csv", "whole")
    assert names() == [".table.csv", "table"]


@pytest.mark.parametrize(
    "begin",
    [lambda out: write_text(out, "content"), lambda out: files.publish(out).__enter__()],
    ids=["file", "folder"],
)
def test_a_signal_as_something_temporary_is_created_leaves_nothing(begin, tmp_path, monkeypatch):
    """Ctrl-C arrives after the system call, before Python returns from it."""

    def interrupted_after(create):
        def call(path, *arguments, **options):
            created = create(path, *arguments, **options)
            if Path(path).name.startswith(".out."):
                assert Path(path).exists()
                if created:
                    created.close()
                raise KeyboardInterrupt
            return created

        return call

    monkeypatch.setattr(os, "mkdir", interrupted_after(os.mkdir))
    monkeypatch.setattr(io, "open", interrupted_after(io.open))
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_can_not_be_written_is_named_and_not_the_temporary_one(tmp_path, read_only):
    read_only(tmp_path)
    with pytest.raises(PermissionError) as caught:
        write_text(tmp_path / "out", "content")
    assert caught.value.filename == str(tmp_path / "out")


def test_files_behind_links_are_listed_once_each_way_and_loops_end(tmp_path):
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "data" / "inner" / "x").touch()
    (tmp_path / "data" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "other").symlink_to(tmp_path / "data" / "inner")
    (tmp_path / "data" / "dangling").symlink_to(tmp_path / "missing")
    listed = {path.relative_to(tmp_path / "data").as_posix() for path in files_below(tmp_path / "data")}
    assert listed == {"inner/x", "other/x", "dangling"}
