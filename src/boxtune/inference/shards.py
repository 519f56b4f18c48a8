"""Folders of millions of pictures, shard by shard: what is done stays done, whoever does it and however it ends.

A work is a folder. `pictures.parquet` lists the pictures as they were when it began, a row group a shard, with what is
asked in its metadata; `boxes/00000.parquet` … hold what was found, a row a picture in the same order. A shard's file is
written aside and renamed, so one that is there is whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

from boxtune.console import say
from boxtune.data.dataset import OnError
from boxtune.data.formats.state import files_below
from boxtune.data.images import IMAGE_SUFFIXES
from boxtune.data.records import SkippedRecord
from boxtune.detections import Detections
from boxtune.documents import parse_json
from boxtune.errors import ConfigError, DataError, SaveError
from boxtune.inference.coco_dataset import FoundPicture
from boxtune.inference.detector import load_detector
from boxtune.inference.pictures import (
    HOW_TO_GO_ON,
    check_name,
    find_images,
    left_out,
    look_at_headers,
    name_in,
    open_picture,
    passed_by,
    refuse,
)
from boxtune.inference.prediction import AnyDetector
from boxtune.models.fingerprint import weights_fingerprint
from boxtune.whole_files import whole_file

PICTURES: Final = "pictures.parquet"
BOXES: Final = "boxes"
UNREADABLE: Final = "unreadable"
"""Status of a picture that no answer was asked for."""
_ASKED: Final = b"boxtune"
_FOUND: Final = pa.schema(
    [
        ("picture", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("boxes_xyxy_px", pa.list_(pa.list_(pa.float64(), 4))),
        ("labels", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class Asked:
    """What is asked of every picture of a work; a work goes on only with the same.

    Attributes:
        model, labels, decoder, free_labels, batch_size, quantize: as of `load_detector`.
        image: the folder of pictures, as an absolute path.
        min_score: boxes below are left out.
        shard_size: pictures a shard.
        weights: fingerprint of the model's files where it is a folder, so that a work is not finished by another model.
    """

    model: str
    image: str
    labels: tuple[str, ...]
    decoder: str = "text"
    free_labels: bool = False
    batch_size: int = 8
    quantize: str = "none"
    min_score: float = 0.0
    shard_size: int = 1000
    weights: str | None = None


def asked_of(model: str, image: Path, **options: Any) -> Asked:
    """What is asked, places written out in full: workers may sit in other folders, or on other machines."""
    folder = Path(model)
    is_folder = folder.is_dir()
    weights = weights_fingerprint(folder) if is_folder else None
    return Asked(str(folder.absolute()) if is_folder else model, str(image.absolute()), weights=weights, **options)


@dataclass(frozen=True)
class Work:
    """A folder of a work that has begun.

    Attributes:
        folder: its output folder.
        asked: of every picture.
        num_pictures, num_shards: of the whole work.
    """

    folder: Path
    asked: Asked
    num_pictures: int
    num_shards: int

    def shard_file(self, shard: int) -> Path:
        """Where the boxes of a shard lie once it is done."""
        return self.folder / BOXES / f"{shard:05d}.parquet"

    @property
    def missing(self) -> list[int]:
        """Shards that are not done."""
        there = {path.name for path in (self.folder / BOXES).iterdir()}
        return [shard for shard in range(self.num_shards) if self.shard_file(shard).name not in there]

    def pictures_of(self, shard: int) -> list[str]:
        """Paths of the pictures of a shard."""
        column = pq.ParquetFile(self.folder / PICTURES).read_row_group(shard)["picture"]
        return [str(path) for path in column.to_pylist()]


def begin_or_go_on(folder: Path, asked: Asked, on_error: OnError = "refuse", console: Console | None = None) -> Work:
    """Begin a work in a new or empty folder, or go on with the one that is there.

    Args:
        folder: of the work.
        asked: of every picture.
        on_error: `refuse` looks at the headers of all pictures before a work begins.
        console: shows progress of that.

    Raises:
        ConfigError: the folder holds something else, or a work that asks for something else.
        DataError: no pictures, or a folder of them cannot be read; bad pictures, with `refuse`.
        SaveError: the folder cannot be written.
    """
    try:
        if not (folder / PICTURES).is_file():
            _begin(folder, asked, on_error, console)
        work = open_work(folder)
        (folder / BOXES).mkdir(exist_ok=True)
        for left in (folder / BOXES).glob(".*"):  # of a worker that was killed
            left.unlink()
    except OSError as error:
        raise SaveError(f"{folder} cannot be written: {error.strerror or error}.") from None
    for name, value in asdict(asked).items():
        if (before := asdict(work.asked)[name]) != value:
            said = f"another {name.replace('_', ' ')}" if name == "weights" else f"{name} {before!r}, not {value!r}"
            raise ConfigError(
                f"{folder} holds work that was begun with {said}: ask the same, or choose another folder."
            )
    return work


def open_work(folder: Path) -> Work:
    """The work that a folder holds.

    Raises:
        ConfigError: its list of pictures cannot be read.
    """
    path = folder / PICTURES
    try:
        found = pq.read_metadata(path)
        said = parse_json(found.metadata[_ASKED])
        asked = Asked(**{**said, "labels": tuple(said["labels"])})
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a list that boxtune predict has begun ({error}): choose another folder."
        ) from None
    return Work(folder, asked, found.num_rows, found.num_row_groups)


def _begin(folder: Path, asked: Asked, on_error: OnError, console: Console | None) -> None:
    others = [path for path in folder.iterdir() if not path.name.startswith(f".{PICTURES}")] if folder.is_dir() else []
    if others:
        raise ConfigError(f"{folder} is not an empty folder: choose another --output-dir, nothing is written over.")
    pictures = _list_pictures(Path(asked.image))
    if console is not None and (note := passed_by(Path(asked.image))):
        say(console, note)
    if on_error == "refuse":
        refuse(look_at_headers(pictures, console), len(pictures))
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"picture": pictures}, pa.schema([("picture", pa.string())], {_ASKED: json.dumps(asdict(asked))}))
    _write_aside(table, folder / PICTURES, row_group_size=asked.shard_size)


def _list_pictures(place: Path) -> list[str]:
    """As `find_images`, and in its order, but as text: a million of them are no burden."""
    if not place.is_dir():
        return [str(path) for path in find_images(place)]
    try:
        found = list(files_below(place, IMAGE_SUFFIXES))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None
    if not found:
        find_images(place)  # says what was looked for
    for path in found:
        check_name(path)
    return found


def look_at(
    detector: AnyDetector, paths: Sequence[str], min_score: float, on_error: OnError = "refuse"
) -> list[dict[str, Any]]:
    """A row for each picture, in order: size, status of the answer, and boxes as `boxtune predict` finds them.

    Raises:
        DataError: a picture cannot be read, or is too thin, with `refuse`; with `skip` its row says so.
    """
    rows: list[dict[str, Any]] = [{} for _ in paths]
    asked: list[int] = []

    def images() -> Iterator[Image.Image]:
        for place, path in enumerate(paths):
            try:
                image = open_picture(Path(path))
            except DataError as error:
                if on_error == "refuse":
                    raise DataError(f"{error} {HOW_TO_GO_ON}") from error
                rows[place] = {"picture": path, "status": UNREADABLE, "reason": str(error)}
            else:
                rows[place] = {"picture": path, "width": image.width, "height": image.height}
                asked.append(place)
                yield image

    for number, prediction in enumerate(detector.predict(images())):
        boxes = prediction.result.detections
        assert boxes.scores is not None
        boxes = boxes.select(boxes.scores >= min_score)
        assert boxes.scores is not None
        rows[asked[number]] |= {
            "status": prediction.result.status,
            "reason": prediction.result.reason,
            "boxes_xyxy_px": boxes.xyxy.tolist(),
            "labels": list(boxes.labels),
            "scores": boxes.scores.tolist(),
        }
    return rows


class ShardWorker:
    """Loads the detector of a work once, and does shards with it.

    Args:
        folder: of the work.
        device: of the detector.
        on_error: as of `look_at`.
    """

    def __init__(self, folder: str, device: str, on_error: OnError = "refuse") -> None:
        self.work = open_work(Path(folder))
        self.on_error = on_error
        asked = self.work.asked
        self.detector = load_detector(
            asked.model,
            device,
            quantize=asked.quantize,  # type: ignore[arg-type]
            labels=asked.labels,
            batch_size=asked.batch_size,
            num_candidates=0,
            decoder=asked.decoder,
            free_labels=asked.free_labels,
        )

    def do(self, shard: int) -> int:
        """Do a shard and write its file; returns the number of its pictures."""
        rows = look_at(self.detector, self.work.pictures_of(shard), self.work.asked.min_score, self.on_error)
        _write_aside(pa.Table.from_pylist(rows, _FOUND), self.work.shard_file(shard))
        return len(rows)


def _write_aside(table: pa.Table, path: Path, **options: Any) -> None:
    with whole_file(path) as aside:
        pq.write_table(table, aside, **options)


@dataclass(frozen=True)
class FoundPictures:
    """The pictures of a finished work with their boxes, read from its files each time they are gone through.

    Those that could not be read are not among them.
    """

    work: Work

    def __iter__(self) -> Iterator[FoundPicture]:
        place = Path(self.work.asked.image)
        root = place if place.is_dir() else place.parent
        for shard in range(self.work.num_shards):
            for row in pq.read_table(self.work.shard_file(shard), schema=_FOUND).to_pylist():
                if row["status"] != UNREADABLE:
                    boxes = Detections(row["boxes_xyxy_px"], row["labels"], row["scores"])
                    yield FoundPicture(name_in(root, Path(row["picture"])), (row["height"], row["width"]), boxes)


def count_found(work: Work) -> Counter[str]:
    """How many pictures of a finished work have which status, and how many `boxes` there are."""
    counts: Counter[str] = Counter(boxes=0)
    for shard in range(work.num_shards):
        table = pq.read_table(work.shard_file(shard), columns=["status", "labels"])
        counts.update(table["status"].to_pylist())
        counts["boxes"] += sum(len(labels) for labels in table["labels"].to_pylist() if labels is not None)
    return counts


def bad_pictures(work: Work) -> list[SkippedRecord]:
    """The pictures of a finished work that were left out, in their order."""
    bad = []
    for shard in range(work.num_shards):
        rows = pq.read_table(work.shard_file(shard), filters=[("status", "=", UNREADABLE)]).to_pylist()
        bad += [left_out(row["picture"], DataError(row["reason"])) for row in rows]
    return bad
