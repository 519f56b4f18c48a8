"""Pictures with boxes over them: one JPEG in the page, and the boxes as lines that stay thin at any size."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

from boxtune.detections import Detections
from boxtune.inference.draw import PALETTE, label_colour, readable_on

THUMBNAIL_PX: Final = 560
"""Longest side of an embedded picture."""

PALETTE_SIZE: Final = len(PALETTE)
"""Labels beyond the first so many share colours."""

MAX_BOXES: Final = 200
"""Boxes of a kind drawn on one picture; the caption counts them all."""


@dataclass(frozen=True)
class Thumbnail:
    """An embedded picture.

    Attributes:
        uri: `data:image/jpeg;base64,…`.
        width, height: of the picture that boxes are in, in pixels; the embedded one may be smaller.
    """

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class DrawnBox:
    """A box as the template draws it, in pixels of the picture.

    Attributes:
        x, y, width, height: of the box.
        text: written at it; empty for none.
        text_x, text_y, text_width: upper left corner and length of the text's ground.
        colour, ink: of the line and of the text on it, as `#rrggbb`.
        kind: an error kind, `right`, or empty; for the page's filter.
    """

    x: float
    y: float
    width: float
    height: float
    text: str
    text_x: float
    text_y: float
    text_width: float
    colour: str
    ink: str
    kind: str = ""


def thumbnail(image: Image.Image, longest: int = THUMBNAIL_PX, quality: int = 80) -> Thumbnail:
    """A JPEG of at most `longest` pixels a side."""
    scale = min(1.0, longest / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS) if scale < 1 else image.convert("RGB")
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(uri, image.width, image.height)


def text_size(image_hw: tuple[int, int]) -> float:
    """Height of letters in pixels of the picture: 12 on the screen, where it is shown in 350 × 540."""
    return 12 * max(image_hw[1] / 350, image_hw[0] / 540)


def drawn_boxes(
    detections: Detections,
    image_hw: tuple[int, int],
    labels: Sequence[str],
    kinds: Sequence[str] = (),
    *,
    texts: bool = True,
) -> list[DrawnBox]:
    """Boxes cut at the picture's border, each with label and score above it, or inside where there is no room.

    Args:
        detections: in pixels of a picture of `image_hw`.
        labels: known labels in order, which gives them their colours.
        kinds: an error kind a box; written behind the score.
        texts: whether anything is written at the boxes.
    """
    size = text_size(image_hw)
    clipped = detections.clipped(image_hw).xyxy[:MAX_BOXES]
    drawn = []
    for index, (x1, y1, x2, y2) in enumerate(clipped.tolist()):
        label = detections.labels[index]
        kind = kinds[index] if kinds else ""
        score = None if detections.scores is None else float(detections.scores[index])
        text = _caption(label, score, kind) if texts else ""
        length = len(text) * size * 0.56 + size * 0.4
        colour = label_colour(label, labels)
        drawn.append(
            DrawnBox(
                x=round(x1, 1),
                y=round(y1, 1),
                width=round(x2 - x1, 1),
                height=round(y2 - y1, 1),
                text=text,
                text_x=round(max(0.0, min(x1, image_hw[1] - length)), 1),
                text_y=round(y1 - size * 1.2 if y1 >= size * 1.2 else y1, 1),
                text_width=round(length, 1),
                colour=_hex(colour),
                ink=_hex(readable_on(colour)),
                kind=kind,
            )
        )
    return drawn


def colour_of(label: str, labels: Sequence[str]) -> str:
    """`#rrggbb` of a label's boxes."""
    return _hex(label_colour(label, labels))


def _caption(label: str, score: float | None, kind: str) -> str:
    short = label if len(label) <= 24 else label[:23] + "…"
    parts = [short, "" if score is None else f"{score:.2f}", "" if kind in ("", "correct") else kind]
    return " ".join(part for part in parts if part)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
