"""Folders that appear whole or not at all: written aside, brought to the disk, and renamed, as files are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from boxtune.whole_files import sync_file

UNFINISHED: Final = ".unfinished"
"""Folder inside that of a run: what is being written, or removed. Of no use to anybody once the process has ended."""


def discard_unfinished(home: Path) -> None:
    """Remove what a process that was killed has left aside."""
    if (home / UNFINISHED).exists():
        shutil.rmtree(home / UNFINISHED)


def publish(folder: Path, target: Path) -> None:
    """Give a folder that was written aside its name; one that has the name goes.

    Args:
        folder: below `UNFINISHED` of the folder that `target` is in.
        target: its name from now on.

    Raises:
        OSError: the disk does not hold it; nothing has the name then that did not have it before.
    """
    sync(folder)
    replaced = folder.with_name(f"replaced-{target.name}")
    if target.exists():
        target.rename(replaced)
    folder.rename(target)
    _sync_names(target.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def move_into(folder: Path, target: Path, *, seal: str) -> None:
    """Move files that were written aside into a folder, over older ones.

    Args:
        folder: holds files and folders, all of them new.
        target: where they go.
        seal: the file that says the folder is whole; taken away first and put there last.

    Raises:
        OSError: the disk does not hold them.
    """
    sync(folder)
    (target / seal).unlink(missing_ok=True)
    new = sorted(folder.iterdir(), key=lambda path: path.name == seal)
    for stale in _weights(target) - _weights(folder):  # shards of a model that was cut otherwise
        (target / stale).unlink()
    for path in new:
        if path.is_dir() and (target / path.name).exists():
            shutil.rmtree(target / path.name)
        if path.name == seal:
            _sync_names(target)
        path.replace(target / path.name)
    _sync_names(target)


def discard(folder: Path) -> None:
    """Remove a folder of a run: it loses its name at once, not file by file."""
    gone = folder.parent / UNFINISHED / f"discarded-{folder.name}"
    if gone.exists():
        shutil.rmtree(gone)
    gone.parent.mkdir(exist_ok=True)
    folder.rename(gone)
    shutil.rmtree(gone)
    _remove_if_empty(gone.parent)


@contextmanager
def written_aside(home: Path, name: str) -> Iterator[Path]:
    """A new folder below `UNFINISHED`; it is removed behind the `with`, whatever is left in it then."""
    folder = home / UNFINISHED / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder)
        _remove_if_empty(folder.parent)


def sync(folder: Path) -> None:
    """Bring a folder's files and their names to the disk.

    Raises:
        OSError: the disk does not hold them.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(place) / name)
        _sync_names(Path(place))


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _weights(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.safetensors*") if path.is_file()}


def _sync_names(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows keeps no handle of a folder
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
