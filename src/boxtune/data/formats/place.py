"""Where a data set is: the text a user gave, taken apart, and image names looked up without leaving the folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from boxtune.data.records import BadRecordError
from boxtune.errors import DataError, nearest

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OPTIONS = ("boxes", "config", "names", "revision")


@dataclass(frozen=True)
class Place:
    """A data set's whereabouts.

    Attributes:
        spec: what the user gave, for messages.
        path: folder or file, or None for a data set on the hub.
        hub_id: `owner/name` on the hub, or None for a local one.
        options: what stood after `?`, such as `{"boxes": "xywh_px"}`; only the hub format takes any.
    """

    spec: str
    path: Path | None = None
    hub_id: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A short name for reports."""
        return self.hub_id or (self.path.resolve().name if self.path else self.spec)

    @property
    def local(self) -> Path:
        """The folder or file.

        Raises:
            DataError: the data set is on the hub.
        """
        if self.path is None:
            raise DataError(f"'{self.spec}' is no file or folder. Download it first, or read it with --format hub.")
        return self.path


def parse_place(spec: str) -> Place:
    """Take a spec apart: a path or hub id, and options after `?`.

    Raises:
        DataError: there is no such file and it cannot be a hub id either, or an option is unknown.
    """
    if Path(spec).expanduser().exists():
        return Place(spec, path=Path(spec).expanduser())
    location, _, query = spec.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options.keys() - set(_OPTIONS):
        raise DataError(f"Data set '{spec}': unknown option '{option}'. {nearest(option, _OPTIONS)}")
    path = Path(location).expanduser()
    if path.exists():
        return Place(spec, path=path, options=options)
    if _HUB_ID.fullmatch(location):
        return Place(spec, hub_id=location, options=options)
    raise DataError(f"Data set '{spec}' does not exist here. Give a folder, a file, or a hub id as owner/name.")


def find_image(folders: Sequence[Path], name: object, root: Path) -> Path:
    """The image file that an annotation names: the first that exists of `folder / name`, nearest folder first.

    Where none exists the nearest place is given, for the probe to complain about.

    Raises:
        BadRecordError: the name is no text, or leads from the nearest folder out of `root`, the data set's.
    """
    if not isinstance(name, str) or not name.strip():
        raise BadRecordError(f"the image name {name!r} is not text. Name the image file.")
    relative = name.replace("\\", "/")  # Windows tools write backslashes; elsewhere nobody does
    # As text: a million times, Path objects would take longer than looking at the files.
    candidates = (os.path.normpath(os.path.join(folder, relative)) for folder in folders)  # noqa: PTH118
    nearest_place = next(candidates)
    inside = os.path.join(os.path.abspath(root), "")  # noqa: PTH100, PTH118  resolve() would follow links
    if not _is_inside(nearest_place, inside):
        raise BadRecordError(
            f"the image name '{name}' leads out of the data set's folder '{root}'. Put the image inside and name it "
            "from there."
        )
    if os.path.isfile(nearest_place):  # noqa: PTH113
        return Path(nearest_place)
    found = (path for path in candidates if os.path.isfile(path) and _is_inside(path, inside))  # noqa: PTH113
    return Path(next(found, nearest_place))


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path is neither the folder nor in it, judged by the names alone as in `find_image`."""
    inside = os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118  resolve() would follow links
    return not _is_inside(str(path), inside)


def read_lines(path: Path) -> list[str]:
    """The lines of a list of names, without those that are empty.

    Raises:
        DataError: the file is no UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is no UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    return [line.strip() for line in lines if line.strip()]


def _is_inside(path: str, root: str) -> bool:
    """Judged by the names alone: a linked image folder is the user's own wish. `root` ends in a separator."""
    whole = os.path.normcase(os.path.abspath(path))  # noqa: PTH100
    return os.path.join(whole, "").startswith(os.path.normcase(root))  # noqa: PTH118
