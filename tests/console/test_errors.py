"""Errors of the operating system as sentences."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from frostline.console.errors import OutOfResources, allowed, full_disk, resource_errors, system_error


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_array(folder: Path) -> None:
    with room_for(10_000):
        np.save(folder / "array.npy", np.zeros(1_000_000, dtype=np.uint8))


def test_of_many_names_those_that_contain_the_word_are_proposed():
    names = [f"full·resnet10t·labels·s{seed}" for seed in range(30)]
    assert allowed("Full", names).startswith("did you mean 'full·resnet10t·labels·s0' or ")
    assert allowed("gradual", names).startswith("30 names are allowed, such as ")


def test_an_array_that_does_not_fit_on_the_disk(tmp_path):
    with pytest.raises(OSError, match="requested and") as raised:
        write_array(tmp_path)
    assert raised.value.errno is None
    sentence = "the disk is full (an array was not written whole); make room and run the same command again"
    with pytest.raises(OutOfResources) as told, resource_errors():
        write_array(tmp_path)
    assert str(told.value) == sentence
    with (
        pytest.raises(OutOfResources, match="the disk is full; the images need 1 MiB there: clear it"),
        full_disk(tmp_path, "the images need 1 MiB", "clear it"),
    ):
        write_array(tmp_path)
    assert str(system_error(raised.value)) == sentence


def test_a_full_disk_outside_of_training(tmp_path):
    with pytest.raises(OSError, match="File too large") as raised, room_for(10):
        (tmp_path / "page.html").write_bytes(bytes(100))
    raised.value.filename = "page.html"
    error = system_error(raised.value)
    assert isinstance(error, OutOfResources)
    assert str(error) == (
        "page.html: the disk is full (File too large); make room and run the same command again"
    )


def test_other_errors_of_the_system():
    with pytest.raises(FileNotFoundError) as raised:
        Path("/nowhere/x").read_bytes()
    error = system_error(raised.value)
    assert not isinstance(error, OutOfResources)
    assert str(error) == "/nowhere/x: No such file or directory; fix that and run again"
