"""Printed text, fast: words are drawn once per face with Pillow's bundled font, kept, and pasted as coverage masks.

The bundled font is the only one that every machine has, so pictures are the same everywhere. It knows ASCII; letters
with marks are put together from their base letter and a mark. Variety comes from weight, width, slant and spacing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from PIL import ImageFont

from boxtune.data.synthetic.surfaces import ByteArray

CAP_HEIGHT = 0.7  # of the font size; figures are as high as capitals
DESCENT = 0.2

_PLAIN = str.maketrans({"ß": "B", "ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "æ": "a", "œ": "o", "’": "'", "–": "-"})
_MARKS = {
    "\u0300": "`", "\u0301": "´", "\u0302": "^", "\u0303": "~", "\u0308": "\"", "\u030a": "°", "\u030c": "^",
    "\u0307": "'", "\u030b": "\"",
}  # fmt: skip


@dataclass(frozen=True)
class Face:
    """How letters look: size in pixels (capitals are 0.7 of it), weight, width, slant, fixed advance."""

    size: int
    bold: bool = False
    stretch: float = 1.0
    slant: float = 0.0
    mono: bool = False


@dataclass(frozen=True)
class Word:
    """Coverage `mask` (0–255) of a text; its first row lies `rise` pixels above the baseline."""

    mask: ByteArray
    rise: int

    @property
    def width(self) -> int:
        """Pixels from the first to behind the last inked column."""
        return self.mask.shape[1]


@lru_cache(maxsize=256)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(max(size, 4))
    assert isinstance(font, ImageFont.FreeTypeFont)  # as always when a size is asked for
    # The basic layout engine is in every build of Pillow; raqm is not, and would place letters otherwise.
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


def _drawn(text: str, size: int) -> tuple[ByteArray, int]:
    """Coverage and rise of a text without marks."""
    mask, (_, top) = _font(size).getmask2(text, mode="L", anchor="ls")
    width, height = mask.size
    return np.frombuffer(bytes(mask), np.uint8).reshape(height, width).copy(), -top


def _mono(text: str, size: int) -> tuple[ByteArray, int]:
    advance, rise = max(round(0.6 * size), 3), round(0.8 * size)
    mask = np.zeros((rise + round(0.3 * size) + 1, advance * len(text) + 2), np.uint8)
    for i, char in enumerate(text):
        if char != " ":
            glyph, top = _drawn(char, size)
            paste(mask, glyph, i * advance + max((advance - glyph.shape[1]) // 2, 0), rise - top)
    return mask, rise


def _with_marks(text: str, size: int) -> tuple[ByteArray, int]:
    """Base letters from the font, marks above them where the decomposed text has some."""
    base = "".join(c for c in text if not unicodedata.combining(c))
    letters, rise = _drawn(base, size)
    lift = max(round(0.22 * size), 1)
    top = max(rise, round(CAP_HEIGHT * size)) + lift
    mask = np.zeros((letters.shape[0] + top - rise, letters.shape[1]), np.uint8)
    mask[top - rise :] = letters
    position = 0
    for char in text:
        if not unicodedata.combining(char):
            position += 1
            continue
        if char in _MARKS:
            mark, _ = _drawn(_MARKS[char], size)
            mark = mark[: max(lift, 1) + 1]
            middle = (_font(size).getlength(base[: position - 1]) + _font(size).getlength(base[:position])) / 2
            letter_top = top - round((CAP_HEIGHT if base[position - 1].isupper() else 0.55) * size)
            paste(mask, mark, round(middle - mark.shape[1] / 2), letter_top - mark.shape[0])
    return mask, top


def _trimmed(mask: ByteArray, rise: int) -> tuple[ByteArray, int]:
    """Without empty rows and columns, so that a word begins and ends where its ink does."""
    inked = mask > 40
    columns, rows = np.flatnonzero(inked.any(axis=0)), np.flatnonzero(inked.any(axis=1))
    if not len(columns):
        return np.zeros((1, 1), np.uint8), 1
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], rise - int(rows[0])


@lru_cache(maxsize=8_000)
def _large(text: str, size: int, mono: bool) -> Word:
    """A text as the font gives it, at one of two sizes; others are scaled from it, which is ten times as fast."""
    plain = unicodedata.normalize("NFD", text.translate(_PLAIN))
    plain = "".join(c for c in plain if c.isascii() or c in _MARKS or c in "°±·«»©™") or "-"
    marked = any(unicodedata.combining(c) for c in plain)
    if mono:
        mask, rise = _mono("".join(c for c in plain if not unicodedata.combining(c)), size)
    else:
        mask, rise = _with_marks(plain, size) if marked else _drawn(plain, size)
    return Word(*_trimmed(mask, rise))


@lru_cache(maxsize=60_000)
def word(text: str, face: Face) -> Word:
    """The coverage of `text` (one word or a short line) in a face, from the cache where it was drawn before."""
    base = 32 if face.size <= 32 else 100
    large, scale = _large(text, base, face.mono), face.size / base
    size = max(round(large.width * scale * face.stretch), 1), max(round(large.mask.shape[0] * scale), 1)
    mask = cv2.resize(large.mask, size, interpolation=cv2.INTER_AREA)
    if face.bold:
        mask = _bolder(mask, face.size)
    if face.slant:
        height, width = mask.shape
        shear = np.array([[1, -face.slant, face.slant * height], [0, 1, 0]])
        mask = cv2.warpAffine(mask, shear, (width + round(face.slant * height) + 1, height))
    mask.setflags(write=False)
    return Word(mask, round(large.rise * scale))


def _bolder(mask: ByteArray, size: int) -> ByteArray:
    """Widened strokes: each pixel takes a share of its left neighbours, by about a twelfth of the size."""
    extra = max(size / 12, 0.8)
    whole, part = int(extra), extra - int(extra)
    wide = np.pad(mask, ((0, 0), (0, whole + 1)))
    out = wide.copy()
    for shift in range(1, whole + 2):
        weight = 1.0 if shift <= whole else part
        out[:, shift:] = np.maximum(out[:, shift:], (wide[:, :-shift] * weight).astype(np.uint8))
    return out


def paste(ink: ByteArray, mask: ByteArray, x: int, y: int) -> None:
    """Lay a mask over `ink` with its corner at `(x, y)`, cut at the borders."""
    height, width = mask.shape
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, ink.shape[1]), min(y + height, ink.shape[0])
    if x0 < x1 and y0 < y1:
        target = ink[y0:y1, x0:x1]
        np.maximum(target, mask[y0 - y : y1 - y, x0 - x : x1 - x], out=target)


def write(ink: ByteArray, text: str, face: Face, x: int, baseline: int, align: str = "left") -> int:
    """Write a line at a baseline; `x` is its left, middle or right end. Gives the width in pixels."""
    drawn = word(text, face)
    left = x if align == "left" else x - drawn.width if align == "right" else x - drawn.width // 2
    paste(ink, drawn.mask, left, baseline - drawn.rise)
    return drawn.width


def fitted(text: str, face: Face, width: float) -> Face:
    """The face, narrowed and then made smaller until the text is not wider than `width` (or 5 px are reached)."""
    natural = word(text, face).width
    if natural <= width:
        return face
    stretch = face.stretch * width / natural
    if stretch >= 0.7:
        return replace(face, stretch=int(stretch * 20) / 20)  # steps, so that the cache is hit again
    size = max(int(face.size * width / natural / 0.8), 5)
    return replace(face, size=size, stretch=0.8 if size > 5 else max(int(stretch * face.size / 5 * 20) / 20, 0.3))


def write_fitted(
    ink: ByteArray, text: str, face: Face, x: int, baseline: int, width: float, align: str = "left"
) -> int:
    """Write a line that stays within `width` pixels; gives the width used."""
    return write(ink, text, fitted(text, face, width), x, baseline, align)


def paragraph(
    ink: ByteArray, words: Sequence[str], face: Face, leading: int, *, justify: bool = True, first: int = 0
) -> None:
    """Fill the whole of `ink` with lines of text; the words are used again from the start when they run out.

    Args:
        ink: the block's coverage; the first line's capitals touch its top, justified lines both its sides.
        words: what to write.
        face: letters.
        leading: pixels from baseline to baseline.
        justify: stretch the spaces so that every line ends at the right border.
        first: index of the word to begin with.
    """
    height, width = ink.shape
    space = max(round(0.28 * face.size), 1)
    baseline = max(round(CAP_HEIGHT * face.size), 3)
    index = first
    while baseline <= height:
        line: list[Word] = []
        used = 0
        while True:
            drawn = word(words[index % len(words)], face)
            if line and used + space + drawn.width > width:
                break
            used += drawn.width + (space if line else 0)
            line.append(drawn)
            index += 1
            if used >= width or len(line) > 60:
                break
        slack = (width - used) / max(len(line) - 1, 1) if justify else 0.0
        x = 0.0
        for drawn in line:
            paste(ink, drawn.mask, round(x), baseline - drawn.rise)
            x += drawn.width + space + slack
        baseline += leading
