"""Picture files that a model is to be asked about: found, looked at, opened; those that cannot be read are left out.

What is left out is told as the readers of data sets tell it: a `SkippedRecord` each, in `skipped.jsonl`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from PIL import Image
from rich.console import Console
from rich.progress import track

from boxtune import processes
from boxtune.data.dataset import OnError
from boxtune.data.formats.state import files_below
from boxtune.data.images import IMAGE_SUFFIXES, open_upright_rgb, probe_image
from boxtune.data.records import SkippedRecord, write_skipped
from boxtune.errors import DataError
from boxtune.inference.ahead import ahead
from boxtune.inference.uploads import MOST_STRETCHED

SKIPPED_FILE: Final = "skipped.jsonl"
HOW_TO_GO_ON: Final = "Or leave such pictures out: --on-error skip."
_OTHER_PICTURES: Final = frozenset({".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf"})
_NAMED_IN_MESSAGE: Final = 3
_BLOCK: Final = 64  # pictures that one process looks at in a row
_AT_ONCE: Final = 32  # headers on their way from a disk that may be far

AnyPath = TypeVar("AnyPath", str, Path)


def find_images(path: Path) -> list[Path]:
    """The picture itself, or all pictures below a folder, sorted.

    Raises:
        DataError: nothing there, or a name that is not UTF-8.
    """
    found = _files(path)
    for file in found:
        check_name(file)
    return found


def _files(path: Path) -> list[Path]:
    """As `find_images`, whatever their names, and with links that lead nowhere, which are refused by name later."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"No picture or folder at {path}: check --image.")
    named = (file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    found = sorted(file for file in named if file.is_file() or (file.is_symlink() and not file.exists()))
    if not found:
        also = f" {note}" if (note := passed_by(path)) else ""
        raise DataError(f"No picture in {path}: looked for {', '.join(sorted(IMAGE_SUFFIXES))}.{also}")
    return found


def passed_by(path: Path) -> str | None:
    """A sentence where a folder also has pictures of kinds that are not read, as telephones and cameras write them."""
    others = Counter(Path(file).suffix.lower() for file in files_below(path, _OTHER_PICTURES)) if path.is_dir() else {}
    if not others:
        return None
    counted = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    return f"Not looked at in {path}: {counted}. Save them as JPEG or PNG to have them looked at."


def check_name(path: Path | str) -> None:
    """Refuse what the files of results could not name.

    Raises:
        DataError: the name is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"The name of {str(path)!a} is not UTF-8: rename the picture or its folder.") from None


def readable_images(
    image: Path, on_error: OnError, console: Console | None = None
) -> tuple[list[Path], list[SkippedRecord]]:
    """The pictures of a file or folder whose names and headers are right, and the others.

    Processes that share a command share the look; they must all call, and be able to talk (`boxtune.processes.joined`).

    Args:
        image: a picture, or a folder of pictures.
        on_error: `refuse` names the first bad ones, `skip` leaves them out.
        console: shows progress there.

    Raises:
        DataError: no pictures; a bad one, with `refuse`; no good one.
    """
    paths = _files(image)
    bad = look_at_headers(paths, console, shared=True)
    if on_error == "refuse" or len(bad) == len(paths):
        refuse(bad, len(paths))
    sources = {picture.source for picture in bad}
    return [path for path in paths if str(path) not in sources], bad


def look_at_headers(
    paths: Sequence[AnyPath], console: Console | None = None, *, shared: bool = False
) -> list[SkippedRecord]:
    """What is wrong with the files of pictures, as far as that is seen without decoding a pixel.

    Args:
        paths: of the pictures.
        console: shows progress there.
        shared: each process of the command looks at a part; they must all call, and be able to talk.

    Returns:
        One for each bad picture, in their order.
    """
    own: Sequence[int] = processes.own_share(len(paths), _BLOCK) if shared else range(len(paths))

    def look_at(place: int) -> tuple[int, SkippedRecord] | None:
        try:
            check_name(paths[place])
            check_header(Path(paths[place]))
        except DataError as error:
            return place, left_out(paths[place], error)
        return None

    def work() -> list[tuple[int, SkippedRecord]]:
        looks = ahead(own, look_at, _AT_ONCE)
        quiet = console is None or not console.is_terminal
        shown = track(looks, "look at headers", len(own), console=console, transient=True, disable=quiet)
        return [bad for bad in shown if bad is not None]

    parts = processes.of_all(work) if shared else [work()]
    return [bad for _, bad in sorted((bad for part in parts for bad in part), key=lambda found: found[0])]


def refuse(bad: Sequence[SkippedRecord], num_pictures: int) -> None:
    """Name the first of the bad pictures, if there are any.

    Args:
        bad: what is wrong.
        num_pictures: that were looked at.

    Raises:
        DataError: there are bad pictures.
    """
    if not bad:
        return
    first = " ".join(picture.reason for picture in bad[:_NAMED_IN_MESSAGE])  # each ends in a full stop
    more = f" And {len(bad) - _NAMED_IN_MESSAGE} more." if len(bad) > _NAMED_IN_MESSAGE else ""
    if num_pictures == 1:
        raise DataError(first)
    if len(bad) == num_pictures:
        raise DataError(f"None of {num_pictures} pictures can be read: {first}{more}")
    raise DataError(f"{len(bad)} of {num_pictures} pictures cannot be read: {first}{more} {HOW_TO_GO_ON}")


def open_picture(path: Path) -> Image.Image:
    """The upright picture in RGB; a file whose header is refused is not decoded, so that both looks refuse the same.

    Raises:
        DataError: it cannot be read, or is too thin for the models.
    """
    check_header(path)
    return open_upright_rgb(path)


def check_header(path: Path) -> None:
    """Refuse what is seen without decoding a pixel.

    Raises:
        DataError: no picture, one that was cut short, or too thin for the models.
    """
    height, width = probe_image(path).image_hw
    if max(height, width) > MOST_STRETCHED * min(height, width):
        raise DataError(f"{path}: the models take no image of {width}×{height} px: cut it into parts.")


def left_out(path: Path | str, error: DataError) -> SkippedRecord:
    """A picture that was left out, by the name that results give it."""
    return SkippedRecord(str(path), str(error), str(path))


def write_left_out(folder: Path, bad: Iterable[SkippedRecord]) -> None:
    """Write `skipped.jsonl`, in the order of the pictures.

    Raises:
        OSError: it cannot be written.
    """
    write_skipped(folder / SKIPPED_FILE, sorted(bad, key=lambda picture: Path(picture.source)))


def summary(folder: Path, labels: Sequence[str], num_boxes: int, num_pictures: int, num_left_out: int) -> str:
    """The last line of a command that has asked about pictures.

    Args:
        folder: that was written to.
        labels: that were looked for.
        num_boxes: found.
        num_pictures: that were looked at.
        num_left_out: bad ones.
    """
    bad = f"; {num_left_out} bad left out, see {folder / SKIPPED_FILE}" if num_left_out else ""
    return f"Looked for {', '.join(labels)}. Boxes: {num_boxes}, pictures: {num_pictures}; written to {folder}{bad}"


def name_in(folder: Path, path: Path) -> str:
    """The name of a picture from a folder that it is in, with `/` between folders."""
    return path.relative_to(folder).as_posix()
