"""Boxes on pictures: found ones in a colour of their label, true ones as a dashed line in black and white."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from boxtune.detections import Detections

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

PALETTE: Final[tuple[Colour, ...]] = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (86, 180, 233),
    (230, 159, 0),
    (120, 72, 160),
)
"""Told apart with any kind of colour vision: Okabe and Ito, "Color Universal Design" (2008), black replaced."""

BLACK: Final[Colour] = (0, 0, 0)
WHITE: Final[Colour] = (255, 255, 255)
PAPER: Final[Colour] = (244, 244, 242)


def label_colour(label: str, labels: Sequence[str] = ()) -> Colour:
    """The colour of a label: by its place in `labels`, else by its name; the same in every run and picture.

    Colours of different labels differ for the first eight of `labels`; names alone may share one.
    """
    place = labels.index(label) if label in labels else zlib.crc32(label.encode("utf-8", "replace"))
    return PALETTE[place % len(PALETTE)]


def draw_detections(
    image: Image.Image,
    predicted: Detections | None,
    truth: Detections | None = None,
    *,
    labels: Sequence[str] = (),
) -> Image.Image:
    """A copy of a picture with boxes on it.

    Found boxes are solid lines in the colour of their label, label and score above them. True boxes are dashed lines
    in black and white, label below. Lines and letters grow with the picture; text never leaves it, and a box that
    does is cut at the border.

    Args:
        image: any mode; not changed.
        predicted: found boxes in pixels of `image`, or None.
        truth: true boxes in pixels of `image`, or None.
        labels: known labels in order, for colours that differ (see `label_colour`).

    Returns:
        An RGB picture of the same size.
    """
    canvas = image.convert("RGB") if image.mode != "RGB" else image.copy()
    draw = ImageDraw.Draw(canvas)
    width = line_width(canvas)
    font = ImageFont.load_default(size=font_size(canvas))
    found = [] if predicted is None else _pixel_boxes(predicted, canvas)
    true = [] if truth is None else _pixel_boxes(truth, canvas)
    if predicted is not None:
        for label, box in zip(predicted.labels, found, strict=True):
            draw.rectangle(box, outline=label_colour(label, labels), width=width)
    for box in true:
        _dashed_rectangle(draw, box, max(1, width // 2))
    # Text last, so that no line crosses it.
    if truth is not None:
        for label, box in zip(truth.labels, true, strict=True):
            _write(draw, label, box, font, BLACK, below=True)
    if predicted is not None:
        scores = predicted.scores if predicted.scores is not None else [None] * len(predicted)
        for label, score, box in zip(predicted.labels, scores, found, strict=True):
            text = label if score is None else f"{label} {score:.2f}"
            _write(draw, text, box, font, label_colour(label, labels))
    return canvas


def line_width(image: Image.Image) -> int:
    """Of a box in pixels: 1/250 of the picture's mean side, at least 2."""
    return max(2, round(math.sqrt(image.width * image.height) / 250))


def font_size(image: Image.Image) -> int:
    """In pixels: 1/32 of the picture's mean side, at least 12."""
    return max(12, round(math.sqrt(image.width * image.height) / 32))


def _pixel_boxes(detections: Detections, image: Image.Image) -> list[Box]:
    """First and last pixel of each box, inside the image. A box without area keeps one pixel."""
    last_x, last_y = image.width - 1, image.height - 1
    boxes = []
    for x1, y1, x2, y2 in detections.clipped((image.height, image.width)).xyxy:
        left, top = min(round(x1), last_x), min(round(y1), last_y)
        boxes.append((left, top, max(left, round(x2) - 1), max(top, round(y2) - 1)))
    return boxes


def _dashed_rectangle(draw: ImageDraw.ImageDraw, box: Box, width: int) -> None:
    """Black with white dashes: seen on any ground, and over a found box that lies on the same line."""
    left, top, right, bottom = box
    draw.rectangle(box, outline=BLACK, width=width)
    dash = 5 * width
    inner_right, inner_bottom = max(left, right - width + 1), max(top, bottom - width + 1)
    for x in range(left, right + 1, 2 * dash):
        end = min(x + dash - 1, right)
        draw.rectangle((x, top, end, min(top + width - 1, bottom)), fill=WHITE)
        draw.rectangle((x, inner_bottom, end, bottom), fill=WHITE)
    for y in range(top, bottom + 1, 2 * dash):
        end = min(y + dash - 1, bottom)
        draw.rectangle((left, y, min(left + width - 1, right), end), fill=WHITE)
        draw.rectangle((inner_right, y, right, end), fill=WHITE)


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: Box,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    ground: Colour,
    *,
    below: bool = False,
) -> None:
    """Text on a filled ground near a box."""
    image_size, pad = draw.im.size, 2
    text = shortened(text, font, image_size[0] - 2 * pad)
    width = math.ceil(font.getlength(text)) + 2 * pad
    height = int(font.getbbox("Ágj")[3]) + 2 * pad  # the same for all texts, with or without descenders
    x, y = text_place(box, (width, height), image_size, below=below)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=ground)
    draw.text((x + pad, y + pad), text, font=font, fill=readable_on(ground))


def text_place(
    box: Box, text_size: tuple[int, int], image_size: tuple[int, int], *, below: bool = False
) -> tuple[int, int]:
    """Upper left corner for text of `(width, height)`: above (or below) the box where there is room, else inside it.

    It lies inside the picture of `(width, height)` wherever the text is not larger than the picture.
    """
    left, top, _, bottom = box
    width, height = text_size
    outside, inside = (bottom + 1, bottom + 1 - height) if below else (top - height, top)
    y = outside if 0 <= outside <= image_size[1] - height else inside
    return max(0, min(left, image_size[0] - width)), max(0, min(y, image_size[1] - height))


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """One line of text that fits `width` pixels, with an ellipsis where it was cut.

    Line breaks become spaces, and half characters (lone surrogates), which no font can draw, question marks.
    """
    text = " ".join(text.encode("utf-8", "replace").decode().split())[:200]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def readable_on(ground: Colour) -> Colour:
    """Black or white, whichever stands out more (luminance weights of ITU-R BT.601)."""
    red, green, blue = ground
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else WHITE


def sheet(
    images: Sequence[Image.Image],
    columns: int = 4,
    cell_px: int = 320,
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """A contact sheet: pictures in a grid, each fitted into a square, a line of text below.

    Args:
        images: at least one.
        columns: pictures a row; fewer where there are fewer pictures.
        cell_px: side of the square.
        captions: one text a picture, or None.

    Raises:
        ValueError: no picture, or not one caption a picture.
    """
    if not images:
        raise ValueError("A sheet needs at least one picture.")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(images)} pictures but {len(captions)} captions: give one a picture.")
    columns = max(1, min(columns, len(images)))
    gap = max(4, cell_px // 40)
    font = ImageFont.load_default(size=max(11, cell_px // 22))
    line = int(font.getbbox("Ágj")[3]) + gap if captions is not None else 0
    rows = math.ceil(len(images) / columns)
    paper = Image.new("RGB", (gap + columns * (cell_px + gap), gap + rows * (cell_px + line + gap)), PAPER)
    draw = ImageDraw.Draw(paper)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x, y = gap + column * (cell_px + gap), gap + row * (cell_px + line + gap)
        fitted = fit(image, cell_px, cell_px)
        paper.paste(fitted, (x + (cell_px - fitted.width) // 2, y + (cell_px - fitted.height) // 2))
        if captions is not None:
            draw.text((x, y + cell_px + gap // 2), shortened(captions[index], font, cell_px), font=font, fill=BLACK)
    return paper


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """An RGB copy scaled, up or down, to the largest size within `width` × `height` that keeps its shape."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
