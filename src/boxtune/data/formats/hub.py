"""Rows of a `datasets.Dataset`: a data set on the hub, or parquet files here.

A row has an `image` and `objects` with `bbox` and the classes of the boxes. What the four numbers of a box mean is
declared by the columns, never told from the numbers:

- `objects.category_name` beside the columns `image_id`, `width` and `height` is the Open Food Facts schema
  (nutrition-table-detection): `yxyx_norm`, that is (y_min, x_min, y_max, x_max) in fractions 0–1;
- `objects.category` (or `categories`, `label`, `labels`, `category_id`), as in cppe-5: `xywh_px`, COCO pixels.

Say another meaning in the spec: `owner/name?boxes=xyxy_px`. More options there: `config=` and `revision=` for data
sets on the hub, `names=cat,dog` for classes that are numbers without names.
Images stay undecoded; they are probed and opened from their bytes.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from boxtune import hub
from boxtune.data.formats.place import Place, leads_out
from boxtune.data.formats.state import state_of_file
from boxtune.data.images import open_upright_rgb
from boxtune.data.records import BadRecordError, Draft, DraftBox, Reading, declared_size
from boxtune.data.splits import UNSPLIT, canonical_split, in_order, split_in_name
from boxtune.errors import DataError, nearest

if TYPE_CHECKING:
    import datasets

LOOKED_FOR = "hub rows: *.parquet in the folder or in data/"

# Name of a box form → (x_min, y_min, x_max, y_max) from its four numbers, and whether they are fractions.
_BOX_FORMS: dict[str, tuple[Callable[[Any, Any, Any, Any], tuple[Any, ...]], bool]] = {
    "yxyx_norm": (lambda y0, x0, y1, x1: (x0, y0, x1, y1), True),
    "xyxy_norm": (lambda x0, y0, x1, y1: (x0, y0, x1, y1), True),
    "xyxy_px": (lambda x0, y0, x1, y1: (x0, y0, x1, y1), False),
    "xywh_px": (lambda x, y, w, h: (x, y, x + w, y + h), False),
}
_OPEN_FOOD_FACTS = "yxyx_norm"
_LEAST_BOMB_BYTES, _MOST_PACKED = 1 << 30, 100  # images are packed already, and shrink no further
_READ_COLUMNS = ("image_id", "width", "height", "objects")
_CLASS_COLUMNS = ("category_name", "category", "categories", "label", "labels", "category_id")


@dataclass(frozen=True)
class RowImage:
    """The image of one row; bytes are read from the table when they are asked for.

    Attributes:
        rows: the table, with the column `image`.
        index: number of the row.
        called: what to call it in an error message.
        homes: folders in which a file may lie that the row names instead of holding bytes; relative names start from
            the first.
    """

    rows: datasets.Dataset
    index: int
    called: str
    homes: tuple[Path, ...] = ()

    def read(self) -> bytes:
        """The bytes of the image file.

        Raises:
            DataError: the row has no image, or names a file that lies elsewhere.
        """
        value = self.rows[self.index]["image"]
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None and isinstance(value, dict) and value.get("path"):
            content = self._read_file(str(value["path"]))
        if not isinstance(content, bytes):
            raise DataError(f"Image {self.called} is missing: the row holds no bytes. Remove the row or add its image.")
        return content

    def _read_file(self, name: str) -> bytes | None:
        places = [home / name for home in self.homes]
        found = next((place for place in places if os.path.isfile(place)), None)  # noqa: PTH113  a name may hold a NUL
        if found is None:
            return None
        if all(leads_out(found, home) for home in self.homes):
            raise DataError(
                f"Image {self.called} names the file '{name}', which is no part of the data set. Put its bytes into "
                "the row, or the file beside the table."
            )
        return found.read_bytes()

    def load(self) -> Image.Image:
        """The upright image in mode RGB."""
        return open_upright_rgb(self.read(), self.called)


@dataclass(frozen=True)
class _RowImages:
    rows: datasets.Dataset
    homes: tuple[Path, ...]

    def __call__(self, number: str, source: str) -> RowImage:
        return RowImage(self.rows, int(number), source, self.homes)


@dataclass(frozen=True)
class _Schema:
    """How to read `objects`: the column of the classes, their names (None: they are text), and the form of boxes."""

    classes: str
    names: tuple[str, ...] | None
    box_form: str


def recognises(path: Path) -> bool:
    """Whether a file is parquet, or a folder holds some."""
    return bool(_parquet_files(path))


def split_names(place: Place) -> list[str]:
    """Splits that are there, in order."""
    return in_order(_own_split_names(place))


def read_split(place: Place, split: str) -> Reading:
    """All rows of a split with their boxes.

    Raises:
        DataError: the data set cannot be loaded, or its columns are not those of a detection data set.
    """
    rows = _load(place, _own_split_names(place)[split])
    return _read_rows(rows, place, split)


def state(place: Place, split: str) -> Iterator[str]:
    """What a reading of the split depends on; nothing for a data set on the hub, which may have changed there."""
    if place.path is not None:
        yield from (state_of_file(file) for file in _parquet_files(place.path) if _local_split(file) == split)


def images_of(place: Place, split: str) -> Callable[[str, str], RowImage]:
    """`(number of a row, source)` → its image.

    Raises:
        DataError: the data set cannot be loaded.
    """
    rows = _undecoded(_load(place, _own_split_names(place)[split]).select_columns(["image"]))
    return _RowImages(rows, _homes(place))


def _homes(place: Place) -> tuple[Path, ...]:
    """Where files may lie that rows name: beside the table, or where `datasets` keeps what it has fetched."""
    if place.path is not None:
        return (place.path if place.path.is_dir() else place.path.parent,)
    import datasets
    import huggingface_hub

    return Path(datasets.config.HF_DATASETS_CACHE), Path(huggingface_hub.constants.HF_HUB_CACHE)


def _read_rows(rows: datasets.Dataset, place: Place, split: str) -> Reading:
    schema = _schema(rows, place.options, place.spec)
    images = _RowImages(_undecoded(rows.select_columns(["image"])), _homes(place))
    others = rows.select_columns([name for name in _READ_COLUMNS if name in rows.column_names])
    drafts = (_draft(row, images, index, split, schema) for index, row in enumerate(others))
    note = f"Boxes were read as {schema.box_form}; say ?boxes={'|'.join(_BOX_FORMS)} if they are something else."
    return Reading(drafts, tuple(dict.fromkeys(schema.names)) if schema.names else None, notes=[note])


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else []
    return sorted([*path.glob("*.parquet"), *path.glob("*/*.parquet")])


def _local_splits(path: Path) -> dict[str, list[str]]:
    """Split → parquet files, told from the names of files (`train-00000-of-00002.parquet`) or else of folders."""
    files: dict[str, list[str]] = {}
    for file in _parquet_files(path):
        files.setdefault(_local_split(file), []).append(glob.escape(str(file)))  # datasets takes names as patterns
    return files


def _local_split(file: Path) -> str:
    return split_in_name(file.stem) or split_in_name(file.parent.name) or UNSPLIT


def _own_split_names(place: Place) -> dict[str, str]:
    """Our name of a split → the data set's own."""
    if place.path is not None:
        return {split: split for split in _local_splits(place.path)}
    import datasets

    _check_network(place)
    with _Loading(place):
        own = datasets.get_dataset_split_names(str(place.hub_id), place.options.get("config"), **_revision(place))
    return {canonical_split(name): name for name in own}


def _load(place: Place, split: str) -> datasets.Dataset:
    import datasets

    with _Loading(place):
        if place.path is not None:
            for file in _parquet_files(place.path):
                _refuse_bomb(file)
            # its own name for what has no splits, since `all` has another meaning there
            return datasets.load_dataset("parquet", data_files=_local_splits(place.path)[split], split="train")
        return datasets.load_dataset(str(place.hub_id), place.options.get("config"), split=split, **_revision(place))


def _refuse_bomb(file: Path) -> None:
    """As far as the file itself says what it unpacks to: `datasets` writes all of it to its cache first."""
    import pyarrow.parquet as pq

    described = pq.read_metadata(file)
    num_packed = file.stat().st_size
    num_bytes = sum(described.row_group(number).total_byte_size for number in range(described.num_row_groups))
    if described.num_rows > num_packed or num_bytes > max(_LEAST_BOMB_BYTES, _MOST_PACKED * num_packed):
        raise DataError(
            f"'{file}' has {num_packed:,} bytes and unpacks to {num_bytes:,} in {described.num_rows:,} rows, which no "
            "images do. Write it again without repetition if you trust it."
        )


def _revision(place: Place) -> dict[str, str]:
    return {"revision": place.options["revision"]} if "revision" in place.options else {}


def _check_network(place: Place) -> None:
    """`datasets` takes what it fetched before, but asks the hub for minutes first.

    Raises:
        DataError: it can neither be fetched nor taken.
    """
    import datasets

    if hub.answers():
        return
    datasets.config.HF_HUB_OFFLINE = True
    cached = Path(datasets.config.HF_DATASETS_CACHE) / str(place.hub_id).replace("/", "___")
    if not cached.is_dir():
        raise DataError(
            f"Data set '{place.spec}' cannot be loaded: no such folder, the hub cannot be reached, nor is it in the "
            f"cache here. Where there is a network `hf download {place.hub_id} --repo-type dataset` fetches it and "
            "names a folder: copy that here, and give it as the data."
        )


class _Loading:
    """Whatever goes wrong while `datasets` fetches or reads, as one line that names the data set."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, DataError):
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DataError(f"Data set '{self.place.spec}' cannot be loaded ({reason}). {self._remedy()}") from error

    def _remedy(self) -> str:
        if self.place.path is not None:
            return "See that these are whole parquet files with the same columns."
        return (
            "It is no folder here; on the hub, see that the name is right, that it is public or you are logged in, and "
            "that there is a network."
        )


def _undecoded(rows: datasets.Dataset) -> datasets.Dataset:
    import datasets

    is_image = isinstance(rows.features["image"], datasets.Image)
    return rows.cast_column("image", datasets.Image(decode=False)) if is_image else rows


def _schema(rows: datasets.Dataset, options: dict[str, str], spec: str) -> _Schema:
    columns = set(rows.column_names)
    for column in ("image", "objects"):
        if column not in columns:
            raise DataError(f"Data set '{spec}' has no column '{column}'; it has {', '.join(sorted(columns))}.")
    for column in ("image", *_READ_COLUMNS):
        if column in columns and not _is_plain(rows.features[column], or_image=column == "image"):
            raise DataError(
                f"Data set '{spec}': '{column}' holds what `datasets` would fetch or decode, not just numbers and "
                "text. Write the column again as plain values."
            )
    fields = _fields(rows.features["objects"])
    classes = next((name for name in _CLASS_COLUMNS if name in fields), None)
    if "bbox" not in fields or classes is None:
        raise DataError(
            f"Data set '{spec}': objects has {', '.join(sorted(fields)) or 'no fields'}; it needs bbox and one of "
            f"{', '.join(_CLASS_COLUMNS)}."
        )
    names = _class_names(fields[classes], options.get("names"), classes, spec)
    return _Schema(classes, names, _box_form(columns, classes, options, spec))


def _box_form(columns: set[str], classes: str, options: dict[str, str], spec: str) -> str:
    said = options.get("boxes")
    if said is not None:
        if said not in _BOX_FORMS:
            raise DataError(f"Data set '{spec}': unknown boxes={said}. {nearest(said, _BOX_FORMS)}")
        return said
    if classes != "category_name":
        return "xywh_px"
    if {"image_id", "width", "height"} <= columns:
        return _OPEN_FOOD_FACTS
    raise DataError(
        f"Data set '{spec}' has objects.category_name, but not the columns image_id, width and height of the Open "
        f"Food Facts schema, so what its boxes mean is not known. Say ?boxes={'|'.join(_BOX_FORMS)}."
    )


def _fields(feature: Any) -> dict[str, Any]:
    """Name → feature of what is inside `objects`: a struct of lists, or a list of structs."""
    inner = _inner(feature)
    return {name: _inner(field) for name, field in inner.items()} if isinstance(inner, dict) else {}


def _inner(feature: Any) -> Any:
    while hasattr(feature, "feature"):
        feature = feature.feature
    return feature[0] if isinstance(feature, list) else feature


def _is_plain(feature: Any, *, or_image: bool = False) -> bool:
    """Whether reading a column gives what stands in it; pictures, sounds and documents are decoded from where they lie,
    which may be any file or address.
    """
    import datasets

    if or_image and isinstance(feature, datasets.Image):
        return True
    if isinstance(feature, dict):
        return all(map(_is_plain, feature.values()))
    if isinstance(feature, list):
        return all(map(_is_plain, feature))
    inner = getattr(feature, "feature", None)
    return isinstance(feature, datasets.Value | datasets.ClassLabel) if inner is None else _is_plain(inner)


def _class_names(feature: Any, said: str | None, column: str, spec: str) -> tuple[str, ...] | None:
    if getattr(feature, "names", None):
        return tuple(feature.names)
    if said:
        return tuple(name.strip() for name in said.split(","))
    if getattr(feature, "dtype", None) in ("string", "large_string"):
        return None
    raise DataError(
        f"Data set '{spec}': objects.{column} holds numbers without names. Say them in order: ?names=cat,dog."
    )


def _draft(row: dict[str, Any], images: _RowImages, index: int, split: str, schema: _Schema) -> Draft:
    source = f"{split}, row {index}"
    image_id = row.get("image_id")
    _, relative = _BOX_FORMS[schema.box_form]
    draft = Draft(
        str(index if image_id is None else image_id),
        images(str(index), source),
        source,
        declared_hw=declared_size(row.get("height"), row.get("width")),
        relative=relative,
    )
    try:
        draft.boxes = list(_boxes(row["objects"], schema, source))
    except BadRecordError as bad:
        draft.problem = bad
    return draft


def _boxes(objects: Any, schema: _Schema, source: str) -> Iterator[DraftBox]:
    if isinstance(objects, list):
        objects = {key: [entry[key] for entry in objects] for key in ("bbox", schema.classes)}
    objects = objects or {}
    boxes, classes = objects.get("bbox") or [], objects.get(schema.classes) or []
    if len(boxes) != len(classes):
        raise BadRecordError(f"{len(boxes)} boxes but {len(classes)} classes. Give each box one.")
    to_xyxy, _ = _BOX_FORMS[schema.box_form]
    for numbers, value in zip(boxes, classes, strict=True):
        if numbers is None or len(numbers) != 4 or any(number is None for number in numbers):
            raise BadRecordError(f"the box {numbers!r} is not four numbers. Mend it.")
        yield DraftBox(to_xyxy(*numbers), _label(value, schema.names), source)


def _label(value: Any, names: tuple[str, ...] | None) -> str:
    if isinstance(value, str):
        return value
    if names is None or not isinstance(value, int) or not 0 <= value < len(names):
        raise BadRecordError(f"unknown class {value!r}. Mend it, or say all names with ?names=….")
    return names[value]
