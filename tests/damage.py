"""Damage to files: what a full disk, a failing one or a killed process leaves.

Each kind takes a path and, for other bytes each time, a random generator.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path


def truncate(path: Path, draw: random.Random | None = None) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path, draw: random.Random | None = None) -> None:
    os.truncate(path, 0)


def overwrite(path: Path, draw: random.Random | None = None) -> None:
    path.write_bytes(draw.randbytes(path.stat().st_size) if draw else b"PK\x03\x04\x00\xff garbage" * 50)


def flip_a_bit(path: Path, draw: random.Random | None = None) -> None:
    content = bytearray(path.read_bytes())
    at, bit = (draw.randrange(len(content)), draw.randrange(8)) if draw else (len(content) // 2, 2)
    content[at] ^= 1 << bit
    path.write_bytes(content)


def delete(path: Path, draw: random.Random | None = None) -> None:
    path.unlink()


DAMAGE: dict[str, Callable[..., None]] = {
    "truncated": truncate,
    "empty": empty,
    "garbage": overwrite,
    "flipped": flip_a_bit,
    "deleted": delete,
}
