"""Mixed pictures with open labels, to teach a small model that the prompt says what to find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from boxtune.data.synthetic.cells import paint_round_things, paint_smear
from boxtune.data.synthetic.nutrition import plan_nutrition
from boxtune.data.synthetic.packaging import TABLE
from boxtune.data.synthetic.pages import paint_page
from boxtune.data.synthetic.photograph import expose
from boxtune.data.synthetic.placing import Canvas
from boxtune.data.synthetic.shapes import paint_shapes
from boxtune.data.synthetic.surfaces import ByteArray
from boxtune.data.synthetic.things import paint_desk, paint_litter, paint_road
from boxtune.detections import Detections
from boxtune.errors import DataError, nearest

# Painter, weight in the mix, harshness of the camera (None: the painter took the photo itself).
_Painter = Callable[[np.random.Generator, tuple[int, int]], Canvas]
_KINDS: dict[str, tuple[_Painter | None, float, float | None]] = {
    "shapes": (paint_shapes, 0.17, 0.5),
    "smear": (paint_smear, 0.14, 0.4),
    "round": (paint_round_things, 0.05, 0.6),
    "page": (paint_page, 0.2, None),
    "litter": (paint_litter, 0.14, 0.9),
    "desk": (paint_desk, 0.05, 0.9),
    "road": (paint_road, 0.06, 0.8),
    "package": (None, 0.19, None),
}
_TABLE_NAMES = ("nutrition-table", "nutrition table", "nutrition facts", "nutrition label", "table of nutrients")
_NEVER_THERE = (
    "cat", "dog", "car", "bicycle", "person", "chair", "airplane", "tree", "shoe", "banana", "book", "clock", "boat",
    "horse", "umbrella", "spoon",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A picture and what can be asked about it.

    Attributes:
        image: `[H, W, 3]` RGB bytes.
        detections: every labelled thing that is on it.
        absent: labels that would fit such a picture but are not on it.
        kind: which painter made it, see `SCENE_KINDS`.
    """

    image: ByteArray
    detections: Detections
    absent: tuple[str, ...]
    kind: str

    def query(self, rng: np.random.Generator) -> tuple[list[str], Detections]:
        """Labels to ask for, and the detections that answer: often all, else some; now and then absent ones too."""
        present = list(dict.fromkeys(self.detections.labels))
        chance, asked = rng.random(), list(present)
        if chance < 0.08:
            asked = []
        elif chance < 0.6 and len(present) > 1:
            asked = rng.choice(present, int(rng.integers(1, len(present))), replace=False).tolist()
        if not asked or rng.random() < 0.3:
            fitting = self.absent if self.absent and rng.random() < 0.75 else _NEVER_THERE
            asked += rng.choice(fitting, min(int(rng.integers(1, 4)), len(fitting)), replace=False).tolist()
        asked = rng.permutation(asked).tolist()
        return asked, self.detections.select([label in asked for label in self.detections.labels])


SCENE_KINDS = tuple(_KINDS)


def scene_size(seed: int, size_px: int | tuple[int, int] | None = None) -> tuple[int, int]:
    """`(height, width)` of the scene of a seed; `size_px` as for `make_scene`."""
    if isinstance(size_px, tuple):
        return size_px
    rng = np.random.default_rng([seed, 11])
    longest = size_px or int(rng.integers(256, 513))
    shorter = round(longest * float(rng.choice((1.0, 0.75, 0.66, 0.56), p=(0.4, 0.35, 0.15, 0.1))))
    return (longest, shorter) if rng.random() < 0.6 else (shorter, longest)


def make_scene(seed: int, size_px: int | tuple[int, int] | None = None, kind: str | None = None) -> Scene:
    """A scene, as a pure function of its arguments.

    Args:
        seed: any number from 0.
        size_px: length of the longer side, or `(height, width)`; None for a longer side of 256–512.
        kind: one of `SCENE_KINDS`; None mixes them.

    Raises:
        DataError: an unknown kind.
    """
    if kind is not None and kind not in _KINDS:
        raise DataError(f"There is no kind of scene '{kind}'. {nearest(kind, _KINDS)}")
    rng = np.random.default_rng([seed, 12])
    image_hw = scene_size(seed, size_px)
    weights = np.array([weight for _, weight, _ in _KINDS.values()])
    drawn = SCENE_KINDS[int(rng.choice(len(_KINDS), p=weights / weights.sum()))]
    kind = kind or drawn
    painter, _, harshness = _KINDS[kind]
    if painter is None:
        return _package_scene(rng, seed, image_hw)
    canvas = painter(rng, image_hw)
    image = canvas.image if harshness is None else expose(rng, canvas.image, harshness)
    boxes = np.array(canvas.boxes, dtype=np.float64).reshape(-1, 4)
    return Scene(image, Detections(boxes, canvas.labels), tuple(canvas.absent), kind)


def render_scene(
    seed: int, size_px: int | tuple[int, int] | None = None, kind: str | None = None
) -> tuple[ByteArray, Detections]:
    """Image and detections of `make_scene` with the same arguments."""
    scene = make_scene(seed, size_px, kind)
    return scene.image, scene.detections


def _package_scene(rng: np.random.Generator, seed: int, image_hw: tuple[int, int]) -> Scene:
    """A food package; its table under one of several names, sometimes its other parts as well."""
    photo = plan_nutrition(seed, image_hw)
    label, all_parts = _TABLE_NAMES[int(rng.integers(len(_TABLE_NAMES)))], bool(rng.random() < 0.5)
    printed = {part.kind for part in photo.parts}
    absent = [name for name in ("barcode", "logo", "nutrition score") if name not in printed]
    if TABLE not in printed:
        absent.append(label)
    return Scene(photo.paint(), photo.detections(label, all_parts=all_parts), tuple(absent), "package")
