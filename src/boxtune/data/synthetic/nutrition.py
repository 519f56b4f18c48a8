"""Photos of food packages: planned first (sizes and boxes, cheap), painted when somebody looks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from boxtune.data.synthetic import surfaces
from boxtune.data.synthetic.bending import Bending
from boxtune.data.synthetic.grounds import surroundings
from boxtune.data.synthetic.nutrition_table import paint_nutrition_table
from boxtune.data.synthetic.package_parts import PAINTERS
from boxtune.data.synthetic.packaging import TABLE, Part, lay_out, replacement
from boxtune.data.synthetic.photograph import expose, mottled
from boxtune.data.synthetic.surfaces import ByteArray, Colour
from boxtune.detections import Detections

LABEL = "nutrition-table"  # the category's name in the Open Food Facts data set
LEAST_VISIBLE = 0.4  # of a table's area; what shows less is not printed at all
_NUMBER_OF_TABLES = (0.08, 0.7, 0.17, 0.05)
_LABELLED_PARTS = ("barcode", "ingredient list", "logo", "nutrition score")
_ASPECTS = ((3, 4), (4, 3), (9, 16), (1, 1), (2, 3), (3, 2), (16, 9))


@dataclass(frozen=True)
class PackagePhoto:
    """A photo before it is painted.

    Attributes:
        seed: the number it is made from.
        image_hw: its size in pixels.
        parts: what is printed on the package.
        bending: how the print lies in the photo.
        ground: main colour of the package.
    """

    seed: int
    image_hw: tuple[int, int]
    parts: tuple[Part, ...]
    bending: Bending
    ground: Colour

    def detections(self, label: str = LABEL, *, all_parts: bool = False) -> Detections:
        """Boxes of the nutrition tables under a label; with `all_parts` also of bar codes, lists and logos."""
        boxes, labels = [], []
        for part in self.parts:
            known = part.kind == TABLE or (all_parts and part.kind in _LABELLED_PARTS)
            if known and self.bending.visible(part.rect, self.image_hw) >= LEAST_VISIBLE:
                boxes.append(self.bending.box_inside(part.rect, self.image_hw))
                labels.append(label if part.kind == TABLE else part.kind)
        return Detections(np.array(boxes).reshape(-1, 4), labels).clipped(self.image_hw)

    def paint(self) -> ByteArray:
        """The photo as `[H, W, 3]` RGB bytes."""
        rng = np.random.default_rng([self.seed, 2])
        return expose(rng, self._placed(rng, self.printed(), self._silhouette(rng)))

    def printed(self) -> ByteArray:
        """The flat print, as far as the photo will show it."""
        image = _package_art(np.random.default_rng([self.seed, 3]), self.bending.flat_hw, self.ground)
        for part in self.parts:
            x0, y0, x1, y1 = self.bending.box(part.rect)
            if x1 < 0 or y1 < 0 or x0 > self.image_hw[1] or y0 > self.image_hw[0]:
                continue
            x, y, w, h = part.rect
            painter = paint_nutrition_table if part.kind == TABLE else PAINTERS[part.kind]
            painter(image[y : y + h, x : x + w], np.random.default_rng(part.seed), self.ground)
        return image

    def _silhouette(self, rng: np.random.Generator) -> ByteArray:
        """Coverage of the print's shape: straight, with round corners, or a bag's toothed ends."""
        height, width = self.bending.flat_hw
        mask = np.full((height, width), 255, np.uint8)
        style = rng.random()
        if style < 0.3 and not self.bending.turn:
            mask[:] = 0
            surfaces.rounded(mask, 0, 0, width - 1, height - 1, int(rng.integers(4, 30)))
        elif style < 0.45:
            teeth = (np.abs(np.arange(width) % 8 - 4)).astype(np.intp)
            rows = np.arange(height)[:, None]
            mask[(rows < teeth) | (rows >= height - teeth)] = 0
        return mask

    def _placed(self, rng: np.random.Generator, flat: ByteArray, silhouette: ByteArray) -> ByteArray:
        """The print in its surroundings, with a shadow and sometimes fingers."""
        if self.bending.turn:
            flat = _shaded_can(rng, flat, self.bending)
        elif rng.random() < 0.35:
            flat = mottled(rng, flat, float(rng.uniform(0.1, 0.5)))
        photo, mask = self.bending.warp(flat, self.image_hw), self.bending.warp(silhouette, self.image_hw)
        if mask.min() < 255:
            around = surroundings(rng, self.image_hw)
            if rng.random() < 0.8:
                around = _shadowed(rng, around, mask)
            photo = surfaces.compose(around, photo, mask)
        if rng.random() < 0.25:
            _hold(rng, photo, self.detections().xyxy)
        return photo


def plan_nutrition(seed: int, size_px: int | tuple[int, int] | None = None) -> PackagePhoto:
    """Decide everything that boxes depend on.

    Args:
        seed: any number from 0.
        size_px: length of the longer side, or `(height, width)`; None for a longer side of 320–640.
    """
    rng = np.random.default_rng([seed, 1])
    image_hw = _image_size(rng, size_px)
    tables = int(rng.choice(4, p=_NUMBER_OF_TABLES))
    turns = int(rng.choice(4, p=(0.82, 0.07, 0.04, 0.07)))
    table_wh, share = _table_size(rng, image_hw, turns)
    flat_wh, corner = _flat_size(rng, image_hw, turns, table_wh)
    main = (*corner, *table_wh)
    bending = _bending(rng, image_hw, flat_wh, main, turns, share)
    ground = _ground(rng)
    parts = []
    for part in lay_out(rng, flat_wh, main, tables):
        hidden = part.kind == TABLE and bending.visible(part.rect, image_hw) < LEAST_VISIBLE
        parts.append(replacement(part) if hidden else part)
    return PackagePhoto(seed, image_hw, tuple(parts), bending, ground)


def render_nutrition(seed: int, size_px: int | tuple[int, int] | None = None) -> tuple[ByteArray, Detections]:
    """A photo `[H, W, 3]` of a food package and the boxes of its nutrition tables; a pure function of its arguments."""
    photo = plan_nutrition(seed, size_px)
    return photo.paint(), photo.detections()


def _ground(rng: np.random.Generator) -> Colour:
    """The main colour of a package: often white, cream or cardboard, else anything."""
    if rng.random() < 0.25:
        return surfaces.hsv(float(rng.uniform(0.07, 0.13)), float(rng.uniform(0, 0.35)), float(rng.uniform(0.75, 1)))
    saturation = float(rng.choice((0.04, 0.35, 0.8)) * rng.uniform(0.6, 1.2))
    return surfaces.hsv(float(rng.random()), saturation, float(rng.uniform(0.15, 1)))


def _image_size(rng: np.random.Generator, size_px: int | tuple[int, int] | None) -> tuple[int, int]:
    if isinstance(size_px, tuple):
        return size_px
    longest = size_px or int(rng.integers(320, 641))
    across, down = _ASPECTS[int(rng.integers(len(_ASPECTS)))]
    return round(longest * down / max(across, down)), round(longest * across / max(across, down))


def _table_size(rng: np.random.Generator, image_hw: tuple[int, int], turns: int) -> tuple[tuple[int, int], float]:
    """Width and height of the main table's print, and the share of the photo's longer side that it shall take."""
    low, high = ((0.42, 0.85), (0.7, 1.9), (2.0, 6.0))[int(rng.choice(3, p=(0.36, 0.46, 0.18)))]
    aspect = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    share = float(np.exp(rng.uniform(np.log(0.16), np.log(0.95))) if rng.random() < 0.6 else rng.uniform(0.3, 0.95))
    height, width = image_hw if turns % 2 == 0 else image_hw[::-1]
    long = share * max(image_hw)
    w, h = (long, long / aspect) if aspect > 1 else (long * aspect, long)
    fit = min(1.0, 0.97 * width / w, 0.97 * height / h)
    w, h = max(round(w * fit), 44), max(round(h * fit), 30)
    return (w, h), max(w, h) / max(image_hw)


def _flat_size(
    rng: np.random.Generator, image_hw: tuple[int, int], turns: int, table_wh: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size of the print and the main table's corner on it: the print fills the photo, or stands in it."""
    height, width = image_hw if turns % 2 == 0 else image_hw[::-1]
    w, h = table_wh
    margin = int(rng.integers(3, 24))
    if rng.random() < 0.55:
        across, down = width * rng.uniform(0.95, 1.35), height * rng.uniform(0.95, 1.35)
    else:
        across, down = min(w * rng.uniform(1.05, 2.8), width * 1.05), min(h * rng.uniform(1.05, 2.8), height * 1.05)
    flat_w, flat_h = max(round(across), w + 2 * margin), max(round(down), h + 2 * margin)
    corner = int(rng.integers(margin, flat_w - w - margin + 1)), int(rng.integers(margin, flat_h - h - margin + 1))
    return (flat_w, flat_h), corner


def _bending(
    rng: np.random.Generator, image_hw: tuple[int, int], flat_wh: tuple[int, int], main: tuple[int, int, int, int],
    turns: int, share: float,
) -> Bending:  # fmt: skip
    """Curvature and wrinkles, then a view in which the main table has its share of the photo and mostly lies inside."""
    shape = rng.random()
    wave = float(rng.uniform(0.004, 0.012) * min(flat_wh)) if 0.25 < shape < 0.42 else 0.0
    bending = Bending(
        flat_hw=flat_wh[::-1],
        homography=np.eye(3),
        turn=float(rng.uniform(0.5, 1.2)) if shape < 0.25 else 0.0,
        upright=bool(rng.random() < 0.75),
        sag=float(rng.uniform(-0.3, 0.3)),
        wave=wave,
        wave_phase=(*rng.uniform(0, 6, 2).tolist(), *rng.uniform(0.5, 2.5, 2).tolist()),
    )
    spread = float(rng.choice((0.03, 0.12, 0.6), p=(0.6, 0.3, 0.1)))
    angle = turns * np.pi / 2 + rng.normal(0, spread)
    tilt = np.clip(rng.normal(0, 0.16, 2), -0.35, 0.35) / max(flat_wh)
    middle = np.array([main[0] + main[2] / 2, main[1] + main[3] / 2])
    cos, sin = np.cos(angle), np.sin(angle)
    lean = np.array([[1, 0, 0], [0, 1, 0], [*tilt, 1]]) @ _shift(-middle)
    view = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ lean
    box = replace(bending, homography=view).box(main)
    size = box[2:] - box[:2]
    room = np.array(image_hw[::-1])
    scale = min(share * max(image_hw) / size.max(), *(0.98 * room / size))
    view = np.diag([scale, scale, 1]) @ view
    bent = replace(bending, homography=view)
    print_box, table_box = bent.box((0, 0, *flat_wh)), bent.box(main)
    move = room / 2 - (print_box[:2] + print_box[2:]) / 2 + rng.normal(0, 0.1, 2) * room
    slack = 0.25 * (table_box[2:] - table_box[:2]) if rng.random() < 0.12 else 0.0  # now and then the frame cuts it
    move = np.clip(move, -table_box[:2] - slack, room - table_box[2:] + slack)
    return replace(bending, homography=_shift(move) @ view)


def _shift(by: npt.ArrayLike) -> npt.NDArray[np.float64]:
    matrix = np.eye(3)
    matrix[:2, 2] = by
    return matrix


def _package_art(rng: np.random.Generator, flat_hw: tuple[int, int], ground: Colour) -> ByteArray:
    """The package's ground: plain, gradient, stripes, marbled or with blobs, all near its main colour."""
    height, width = flat_hw
    near = surfaces.near(rng, ground, 30)
    style = rng.random()
    if style < 0.4:
        return np.full((height, width, 3), ground, np.uint8)
    if style < 0.65:
        return surfaces.gradient(height, width, ground, near, float(rng.uniform(0, 2 * np.pi)))
    if style < 0.75:
        return surfaces.stripes(
            height,
            width,
            ground,
            surfaces.near(rng, ground, 8),
            float(rng.uniform(8, 80)),
            float(rng.uniform(0, np.pi)),
        )
    if style < 0.88:
        return surfaces.coloured(surfaces.clouds(rng, height, width, float(rng.uniform(2, 12)), 3), (ground, near))
    art = np.full((height, width, 3), ground, np.uint8)
    surfaces.blobs(rng, art, [near, surfaces.hsv(float(rng.random()), 0.5, 0.8)], int(rng.integers(2, 9)))
    return art


def _shaded_can(rng: np.random.Generator, flat: ByteArray, bending: Bending) -> ByteArray:
    """Darker towards the turned-away sides, with a bright streak along the axis."""
    span = flat.shape[1] if bending.upright else flat.shape[0]
    angle = np.linspace(-bending.turn, bending.turn, span) + rng.uniform(-0.3, 0.3)
    light = (
        0.35 + 0.65 * np.cos(angle) + rng.uniform(0, 0.5) * np.exp(-(((angle - rng.uniform(-0.5, 0.5)) / 0.12) ** 2))
    )
    row = np.clip(light * 180, 30, 255).astype(np.uint8)
    shade = cv2.resize(row[None, :] if bending.upright else row[:, None], flat.shape[1::-1])
    return cv2.multiply(flat, cv2.merge([shade, shade, shade]), scale=1 / 180)


def _shadowed(rng: np.random.Generator, around: ByteArray, mask: ByteArray) -> ByteArray:
    height, width = mask.shape
    small = cv2.resize(mask, (max(width // 4, 2), max(height // 4, 2)), interpolation=cv2.INTER_AREA)
    move = np.array([[1, 0, rng.uniform(-6, 6)], [0, 1, rng.uniform(-2, 8)]])
    small = cv2.GaussianBlur(cv2.warpAffine(small, move, small.shape[::-1]), (0, 0), float(rng.uniform(1, 6)))
    shade = cv2.resize(cv2.convertScaleAbs(small, alpha=-0.55, beta=255), (width, height))
    return cv2.multiply(around, cv2.merge([shade, shade, shade]), scale=1 / 255)


def _hold(rng: np.random.Generator, photo: ByteArray, tables_xyxy: npt.NDArray[np.float64]) -> None:
    """One to four fingers that come in from a side, where they hide no table; in place."""
    height, width = photo.shape[:2]
    reach = max(height, width)
    thick = int(rng.uniform(0.05, 0.12) * reach)
    skin = surfaces.hsv(float(rng.uniform(0.02, 0.08)), float(rng.uniform(0.25, 0.6)), float(rng.uniform(0.35, 0.95)))
    darker = tuple(int(c * 0.75) for c in skin)
    left, y = rng.random() < 0.5, rng.uniform(0, height)
    for _ in range(int(rng.integers(1, 5))):
        tip = rng.uniform(0.03, 0.22) * reach
        x0, x1 = (-thick, tip) if left else (width + thick, width - tip)
        low, high = min(x0, x1) - thick, max(x0, x1) + thick
        hits = (
            (tables_xyxy[:, 0] < high)
            & (tables_xyxy[:, 2] > low)
            & (tables_xyxy[:, 1] < y + thick)
            & (tables_xyxy[:, 3] > y - thick)
        )
        if not hits.any():
            ends = (round(x0), round(y + rng.normal(0, thick / 3))), (round(x1), round(y))
            cv2.line(photo, *ends, darker, thick, cv2.LINE_AA)
            cv2.line(photo, *ends, skin, max(int(thick * 0.8), 1), cv2.LINE_AA)
        y += thick * rng.uniform(0.95, 1.2)
