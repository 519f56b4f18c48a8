"""`synthetic:nutrition?n=200&seed=1&size=448` as a data set: sizes and boxes at once, pixels when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from PIL import Image

from boxtune.data.dataset import SYNTHETIC, DetectionDataset
from boxtune.data.records import Record
from boxtune.data.synthetic.nutrition import LABEL, plan_nutrition, render_nutrition
from boxtune.data.synthetic.scenes import make_scene
from boxtune.errors import DataError, nearest

_OPTIONS = {"n": 1000, "seed": 0, "size": 0}
_LEAST = {"n": 1, "seed": 0, "size": 64}
_MOST = {"n": 10_000_000, "seed": 999_999, "size": 4096}
_SPLITS = ("train", "val", "test")
# The picture at position i of split s under seed k has the number (3k + s) · 10⁷ + i: no two coincide.
_PER_SPLIT = 10_000_000


@dataclass(frozen=True)
class NutritionImage:
    """A photo of a package that is painted when it is opened."""

    number: int
    size_px: int | None

    def load(self) -> Image.Image:
        """The photo in mode RGB."""
        return Image.fromarray(render_nutrition(self.number, self.size_px)[0])


@dataclass(frozen=True)
class SceneImage:
    """A scene that is painted when it is opened."""

    number: int
    size_px: int | None

    def load(self) -> Image.Image:
        """The scene in mode RGB."""
        return Image.fromarray(make_scene(self.number, self.size_px).image)


def load_synthetic(spec: str, split: str | None = None) -> DetectionDataset:
    """Open an endless data set for as many pictures as are wanted.

    Args:
        spec: `synthetic:nutrition` or `synthetic:scenes`, with options as in `?n=200&seed=1&size=448`: how many
            pictures (1000), which ones (0), and their longer side in pixels (0: it varies).
        split: `train`, `val` or `test`: each has `n` pictures of its own, which no other split and no other seed
            has; None is `train`.

    Raises:
        DataError: an unknown name, option or split, or a value out of range.
    """
    name, options = _parse(spec)
    if split is not None and split not in _SPLITS:
        raise DataError(f"'{spec}' has no split '{split}'. {nearest(split, _SPLITS)}")
    first = (3 * options["seed"] + _SPLITS.index(split or "train")) * _PER_SPLIT
    size = options["size"] or None
    records = [_RECORDS[name](first + i, size, f"{spec}, picture {i}") for i in range(options["n"])]
    labels = (LABEL,) if name == "nutrition" else tuple(sorted({la for r in records for la in r.detections.labels}))
    return DetectionDataset(records, labels, SYNTHETIC + name, split, "synthetic")


def _parse(spec: str) -> tuple[str, dict[str, int]]:
    name, _, query = spec.removeprefix(SYNTHETIC).partition("?")
    if name not in _RECORDS:
        raise DataError(f"There is no synthetic data set '{name}'. {nearest(name, _RECORDS)}")
    options = dict(_OPTIONS)
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _OPTIONS:
            raise DataError(f"'{spec}': there is no option '{key}'. {nearest(key, _OPTIONS)}")
        if not value.isdecimal() or not (
            _LEAST[key] <= int(value) <= _MOST[key] or (key == "size" and int(value) == 0)
        ):
            raise DataError(f"'{spec}': {key}={value} must be a whole number from {_LEAST[key]} to {_MOST[key]}.")
        options[key] = int(value)
    return name, options


def _nutrition_record(number: int, size: int | None, source: str) -> Record:
    photo = plan_nutrition(number, size)
    return Record(str(number), NutritionImage(number, size), photo.image_hw, photo.detections(), source)


def _scene_record(number: int, size: int | None, source: str) -> Record:
    scene = make_scene(number, size)
    return Record(str(number), SceneImage(number, size), scene.image.shape[:2], scene.detections, source)


_RECORDS = {"nutrition": _nutrition_record, "scenes": _scene_record}
