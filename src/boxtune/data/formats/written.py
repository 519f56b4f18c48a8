"""What a format's writer gets: images that already lie in the new data set, each with its record."""

from __future__ import annotations

from dataclasses import dataclass

from boxtune.data.records import Record


@dataclass(frozen=True)
class Written:
    """An image of the new data set.

    Attributes:
        name: the image file, from the new data set's folder, with `/` between folders.
        record: size and boxes of the image as it was written.
    """

    name: str
    record: Record
