"""Pictures that come twice: a copy in both train and val makes every figure of val too good."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import track

from boxtune.data.dataset import DetectionDataset
from boxtune.data.images import IMAGE_FORMATS
from boxtune.data.records import EncodedImage, Record
from boxtune.detections import FloatArray
from boxtune.errors import DataError
from boxtune.inspection.dataset_boxes import split_of

MAX_IMAGES = 5000
"""Pictures looked at, evenly chosen; JPEGs of a camera take some 10 ms each."""

HASH_DISTANCE = 6
"""Pictures whose hashes differ in more of the 64 bits are not compared further."""

GREY_DISTANCE = 12.0
"""Nor those whose small grey pictures differ by more on average: white pages have hashes much alike."""

PIXEL_DISTANCE = 6.0
"""Copies differ by less, brightness apart, on average over 32 × 32 coloured pixels of 0–255."""

LOCAL_DISTANCE = 32.0
"""Nor does any of these pixels differ by more in a copy: recompressed, smaller, brighter
and stiffer copies of 120 photos stay below 27, painted things elsewhere on a plain ground begin at some 50."""

MAX_PAIRS = 200

_HASH_SHAPE = (9, 8)  # one column more than bits in a row: a bit compares two neighbours
_SMALL = (32, 32)
_BLOCK = 512


@dataclass(frozen=True)
class CopyPair:
    """Two pictures that look the same.

    Attributes:
        first, second: their ids.
        first_split, second_split: where they are.
        distance: mean difference of 32 × 32 coloured pixels, 0–255, brightness apart.
    """

    first: str
    second: str
    first_split: str
    second_split: str
    distance: float


@dataclass(frozen=True)
class Copies:
    """What was found.

    Attributes:
        num_images: in the data set.
        num_compared: looked at.
        num_across, num_within: pairs in different splits, pairs in one.
        pairs: those across splits first, then the most alike; at most `MAX_PAIRS`.
    """

    num_images: int
    num_compared: int
    num_across: int
    num_within: int
    pairs: tuple[CopyPair, ...]


def find_copies(dataset: DetectionDataset, limit: int = MAX_IMAGES, console: Console | None = None) -> Copies:
    """Pairs of pictures that look the same: a difference hash (Krawetz 2013) finds candidates, small pictures decide.

    Grey ones first, since they are cheap; then, of those that are left, coloured ones, also by their largest
    difference, which sees a small thing that is elsewhere.

    Found are recompressed, resized and slightly brightened copies; not mirrored, turned or cut ones.

    Args:
        dataset: opened; pictures that cannot be read are passed over.
        limit: most pictures to look at.
        console: shows progress there.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).round().astype(np.intp))
    places, hashes, greys = [], [], []
    hidden = console is None or not console.is_terminal
    for index in track(chosen.tolist(), "compare pictures", console=console, disable=hidden):
        try:
            grey = _grey(dataset.records[index])
        except DataError:
            continue
        places.append(index)
        hashes.append(difference_hash(grey))
        small = np.asarray(grey.resize(_SMALL, Image.Resampling.BOX), dtype=np.float32)
        greys.append(small - small.mean())  # brightness apart
    alike = _alike(np.array(hashes, dtype=np.uint64), greys)
    pairs = _alike_in_colour(alike, lambda number: dataset.records[places[number]])
    found = [_pair(dataset, places[a], places[b], distance) for a, b, distance in pairs]
    across = [pair for pair in found if pair.first_split != pair.second_split]
    within = [pair for pair in found if pair.first_split == pair.second_split]
    ordered = [*sorted(across, key=lambda p: p.distance), *sorted(within, key=lambda p: p.distance)]
    return Copies(len(dataset), len(places), len(across), len(within), tuple(ordered[:MAX_PAIRS]))


def difference_hash(grey: Image.Image) -> int:
    """64 bits: whether each of 9 × 8 grey pixels is darker than its right neighbour."""
    pixels = np.asarray(grey.resize(_HASH_SHAPE, Image.Resampling.BOX), dtype=np.int16)
    bits = (pixels[:, 1:] > pixels[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _grey(record: Record) -> Image.Image:
    """The picture small and grey; JPEG decoders give a small one for a fraction of the work.

    The EXIF orientation is left alone: a copy has the same one.
    """
    source = record.image
    if isinstance(source, Path | EncodedImage):
        try:
            file = source if isinstance(source, Path) else io.BytesIO(source.read())
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                if image.format == "JPEG":
                    image.draft("L", (128, 128))
                    return image.convert("L").reduce(max(1, min(image.size) // 64))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{record.source}: {error}") from error
    return record.open_image().convert("L")


def _alike(hashes: npt.NDArray[np.uint64], greys: Sequence[npt.NDArray[np.float32]]) -> list[tuple[int, int]]:
    found = []
    for first in range(0, len(hashes), _BLOCK):
        block = hashes[first : first + _BLOCK]
        rest = hashes[first:]  # pairs of earlier pictures are known
        rows, columns = np.nonzero(np.bitwise_count(block[:, None] ^ rest[None, :]) <= HASH_DISTANCE)
        later = columns > rows
        for a, b in zip((rows[later] + first).tolist(), (columns[later] + first).tolist(), strict=True):
            if np.abs(greys[a] - greys[b]).mean() < GREY_DISTANCE:
                found.append((a, b))
    return found


def _alike_in_colour(
    pairs: Sequence[tuple[int, int]], record_of: Callable[[int], Record]
) -> list[tuple[int, int, float]]:
    """Those that differ little on average and nowhere much, with their mean difference; each picture is opened once."""

    @functools.cache
    def coloured(number: int) -> npt.NDArray[np.int16]:
        return np.asarray(record_of(number).open_image().resize(_SMALL, Image.Resampling.BOX), dtype=np.int16)

    found = []
    for first, second in pairs:
        try:
            differences = _differences(coloured(first), coloured(second))
        except DataError:
            continue
        if differences.max() < LOCAL_DISTANCE and (distance := float(differences.mean())) < PIXEL_DISTANCE:
            found.append((first, second, distance))
    return found


def _differences(first: npt.NDArray[np.int16], second: npt.NDArray[np.int16]) -> FloatArray:
    """Of each pixel and channel, without what one picture is brighter as a whole."""
    difference = first - second
    return np.abs(difference - np.median(difference, axis=(0, 1)))


def _pair(dataset: DetectionDataset, first: int, second: int, distance: float) -> CopyPair:
    a, b = dataset.records[first], dataset.records[second]
    return CopyPair(a.id, b.id, split_of(dataset, a), split_of(dataset, b), round(distance, 2))
