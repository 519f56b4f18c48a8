"""What tells that files have changed, without reading them: their names, sizes and times of change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def state_of_file(path: Path) -> str:
    """A text that changes with the file; one of its own for a file that is not there."""
    name = os.path.abspath(path)  # noqa: PTH100  resolve() would follow links
    try:
        found = path.stat()
    except OSError:
        return f"{name} -"
    return f"{name} {found.st_size} {found.st_mtime_ns}"


def state_of_folder(folder: Path, suffixes: Iterable[str], *, names_only: bool = False) -> str:
    """A text that changes with the files of these suffixes in a folder and the folders in it, but for linked ones.

    Args:
        folder: walked through once; a million files take some seconds.
        suffixes: in small letters, with the dot.
        names_only: files that are written over do not count, only those that come, go or are renamed.
    """
    endings = tuple(suffixes)
    count = total = 0
    for entry in _entries(str(folder)):
        if entry.name.lower().endswith(endings):
            text = entry.path
            if not names_only:
                found = entry.stat()
                text = f"{text} {found.st_size} {found.st_mtime_ns}"
            count += 1
            # a sum: file systems list a folder in any order
            total += int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=16).digest())
    return f"{os.path.abspath(folder)} {count} {total % (1 << 128):032x}"  # noqa: PTH100


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):  # as Path.rglob, which follows no links
                yield from _entries(entry.path)
            else:
                yield entry
