"""Files below a folder, and what tells that they have changed without reading them: names, sizes, times of change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path


def files_below(folder: Path | str, suffixes: Collection[str], *, deep: bool = True) -> Iterator[str]:
    """Paths of the files with these suffixes (in small letters, with the dot), in the order of sorted Paths.

    Names as text and a folder at a time: with a million files a list of Paths takes longer than the files. Links to
    folders are not followed, as `Path.rglob` does not.
    """
    with os.scandir(folder) as entries:
        found = sorted((e.name, e.path, e.is_dir(follow_symlinks=False)) for e in entries if _wanted(e, suffixes, deep))
    for _, path, is_folder in found:
        if is_folder:
            yield from files_below(path, suffixes)
        else:
            yield path


def has_files_below(folder: Path | str, suffixes: Collection[str], *, deep: bool = True) -> bool:
    """Whether there is one; told from the first that is seen."""
    with os.scandir(folder) as entries:
        wanted = (entry for entry in entries if _wanted(entry, suffixes, deep))
        return any(not e.is_dir(follow_symlinks=False) or has_files_below(e.path, suffixes) for e in wanted)


def state_of_file(path: Path | str) -> str:
    """A text that changes with the file; one of its own for a file that is not there."""
    return _state(os.path.abspath(path))  # noqa: PTH100  resolve() would follow links


def state_of_files(paths: Iterable[str], *, names_only: bool = False) -> str:
    """A text that changes with any of many files.

    Args:
        paths: in the same order each time.
        names_only: files that are written over do not count, only those that come, go or are renamed.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path if names_only else _state(path)) + b"\n")
    return digest.hexdigest()


def _state(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return f"{path} -"
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def _wanted(entry: os.DirEntry[str], suffixes: Collection[str], deep: bool) -> bool:
    if entry.is_dir(follow_symlinks=False):
        return deep
    name = entry.name
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in suffixes and entry.is_file()
