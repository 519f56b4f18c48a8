"""A file that appears whole or not at all: it is written aside, brought to the disk, and renamed.

A rename within a file system is atomic (POSIX, rename). `fsync` comes before it, so that a name that is there after a
power failure has its content, and so that a disk or a quota that is full says so while an older file still stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write inside the `with`; at its end that file has the name `path`, over an older one.

    Raises:
        OSError: it cannot be written; an older one stands.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        sync_file(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file, UTF-8, whole or not at all.

    Raises:
        OSError: it cannot be written; an older one stands.
    """
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk.

    Raises:
        OSError: the disk does not hold it.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())
