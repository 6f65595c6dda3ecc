"""The file format of the journal: what is damaged is noticed, and costs no other record."""

import fcntl
import os

import numpy as np
import pytest

from frostline.tracking import journal
from frostline.training.services import Misclassified, RunInfo

ABOUT = RunInfo(
    "mlp·full·digits",
    "finetune",
    "tiny",
    {"a": {"b": [1, None, "ü"]}},
    {"name": "d"},
    "training",
    {},
    3,
    True,
)


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    made = journal.Journal()
    made.append(0, "begin", ABOUT)
    made.append(0, "epoch", {"epoch": 1, "val/loss": float("nan"), "lr": np.float32(0.5)})
    made.append(0, "files", {"a.csv": b"\x00\xff\n"})
    yield made
    made.close()


def whats(path, start=0):
    return [record and record.what for _, record in journal.read(path, start)]


def test_what_is_written_is_read(written):
    records = [record for _, record in journal.read(written.path)]
    assert [record.what for record in records] == ["journal", "begin", "epoch", "files"]
    assert records[1].arguments == [ABOUT]
    assert np.isnan(records[2].arguments[0]["val/loss"])
    assert records[2].arguments[0]["lr"] == 0.5
    assert records[3].arguments == [{"a.csv": b"\x00\xff\n"}]
    assert all(record.run == 0 for record in records[1:])
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    written.append(-1, "annotate", [Misclassified("a", "cat", "dog", 0.5, image)])
    *_, (_, last) = journal.read(written.path)
    (mistake,) = last.arguments[0]
    assert (mistake.label, mistake.prediction) == ("cat", "dog")
    np.testing.assert_array_equal(mistake.picture, image)


def test_reading_continues_where_it_stopped(written):
    ends = [end for end, _ in journal.read(written.path)]
    assert whats(written.path, ends[1]) == ["epoch", "files"]
    assert whats(written.path, ends[-1]) == []


def test_a_flipped_bit_costs_one_record(written):
    content = bytearray(written.path.read_bytes())
    content[content.index(b"val/loss")] ^= 1
    written.path.write_bytes(content)
    assert whats(written.path) == ["journal", "begin", None, "files"]


def test_a_record_that_was_cut_off_is_not_read_and_costs_no_other(written):
    os.truncate(written.path, written.path.stat().st_size - 3)
    assert whats(written.path) == ["journal", "begin", "epoch"]


def test_a_full_disk_costs_no_record(written, monkeypatch):
    write = journal._write

    def full(stream, content):
        stream.write(content[:7])
        raise OSError("no room")

    monkeypatch.setattr(journal, "_write", full)
    written.append(0, "tags", {"a": "1"})
    written.append(0, "tags", {"b": "2"})
    monkeypatch.setattr(journal, "_write", write)
    written.append(0, "end", "FINISHED")
    records = [record for _, record in journal.read(written.path) if record]
    assert [record.what for record in records][4:] == ["tags", "tags", "end"]
    assert [record.arguments[0] for record in records][4:] == [{"a": "1"}, {"b": "2"}, "FINISHED"]


def test_who_is_at_work(written):
    assert journal.is_written(written.path)
    first = journal.claim(written.path)
    assert journal.claim(written.path) is None
    first.mark_delivered(100)
    first.close()
    again = journal.claim(written.path)
    assert again.position == 100
    written.close()
    assert not journal.is_written(written.path)
    again.remove()
    again.close()
    assert journal.claim(written.path) is None
    assert list(journal.folder().iterdir()) == []


def test_what_is_pending(written, monkeypatch):
    (pending,) = journal.pending()
    assert (pending.records, pending.live, pending.for_this_store) == (3, True, True)
    written.close()
    (pending,) = journal.pending()
    assert not pending.live
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/runs")
    assert not journal.pending()[0].for_this_store
    other = journal.Journal()
    assert journal.header_of(other.path).store == "postgresql://me:***@host/runs"
    assert b"secret" not in other.path.read_bytes()
    other.close()


def test_doctor_lists_pending_records(written, monkeypatch):
    from frostline.commands.checks import store

    assert list(store.journals()) == []  # it is being recorded
    written.close()
    (finding,) = store.journals()
    assert (finding.state, finding.fix) == ("note", "frostline sync")
    assert finding.message.startswith("3 records are pending in ")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    (finding,) = store.journals()
    assert finding.message.endswith(" for mlflow.db")
    assert finding.fix == "env -u MLFLOW_TRACKING_URI frostline sync"
    content = written.path.read_bytes()
    written.path.write_bytes(b"x" + content[1:])
    (finding,) = store.journals()
    assert finding.message.endswith(" is damaged, and its store is unknown")


def test_a_name_that_no_database_accepts_is_an_error_before_training(tmp_path, monkeypatch):
    from frostline.base import project
    from frostline.console.errors import FrostlineError

    for name in ("x" * 257, "two\nlines", "half \udc80"):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
        with pytest.raises(FrostlineError, match=r"^MLFLOW_EXPERIMENT_NAME: found '.*; give at most 256, "):
            project.experiment()
    monkeypatch.setenv("FROSTLINE_WAIT", "soon")
    with pytest.raises(FrostlineError, match=r"^FROSTLINE_WAIT: found 'soon'; give a number of seconds"):
        project.wait_seconds()


@pytest.mark.parametrize("uri", ["htp://team:5000", "sqlit:///mlflow.db", "postgres://me:secret@host/runs"])
def test_an_address_that_mlflow_has_no_store_for_is_an_error_before_training(uri, tmp_path, monkeypatch):
    from frostline.console.errors import FrostlineError
    from frostline.tracking.tracker import JournalTracker

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(FrostlineError, match=r"^MLFLOW_TRACKING_URI: found .*, which is neither") as refused:
        JournalTracker()
    assert "secret" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_journal_runs_no_code(tmp_path):
    """It lies in the project, which may be a stranger's."""
    hostile = tmp_path / "hostile.journal"
    forms = [{"$run": {"__class__": "x"}}, {"$array": ["O", [1], {"$bytes": "AAAA"}]}, {"$bytes": 5}]
    hostile.write_bytes(
        b"".join(journal.line_of(0, "begin", [form]) for form in forms) + b"not a record\n00000000 {}\n"
    )
    assert whats(hostile) == [None] * 5


def test_a_lock_is_released_with_its_process(written):
    pid = os.fork()
    if pid == 0:
        claim = journal.claim(written.path)
        os._exit(0 if claim else 1)
    assert os.waitpid(pid, 0)[1] == 0
    with written.path.with_suffix(journal.DELIVERED).open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
