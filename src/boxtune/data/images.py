"""Image files: what a header tells, and the upright RGB image that everything after the readers sees.

Phones store photos lying on their side and note in EXIF how to turn them; scans come in grey, palette, CMYK or 16 bit.
Both end here: a `Sample` holds an upright image in mode RGB and boxes in its pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from boxtune.detections import FloatArray
from boxtune.errors import DataError, TooLargeError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
"""What is decoded, whatever the file's name says: for others Pillow may start programs (EPS: Ghostscript)."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED = frozenset({5, 6, 7, 8})
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What Pillow's decoders raise for broken files; SyntaxError is what its PNG reader says, TypeError its TIFF reader.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class ImageInfo:
    """What the header of an image file tells.

    Attributes:
        image_hw: `(height, width)` of the upright image in pixels.
        stored_hw: `(height, width)` as stored, before the EXIF orientation is applied.
        orientation: EXIF orientation 1–8; 1 is upright.
        file_format: Pillow's name of the format, such as `JPEG`.
        mode: Pillow's mode of the stored pixels, such as `RGB` or `L`.
    """

    image_hw: tuple[int, int]
    stored_hw: tuple[int, int]
    orientation: int
    file_format: str
    mode: str


def probe_image(source: Path | bytes, name: str | None = None) -> ImageInfo:
    """Size and orientation from the header, without decoding a pixel; a JPEG or PNG that was cut short is found too.

    Args:
        source: an image file, or its bytes.
        name: what to call bytes in an error message.

    Raises:
        DataError: no such file, no image, a file that ends before its end mark, or one too large to be trusted.
    """
    with _opened(source, name) as (image, file, called):
        orientation = _orientation(image, file)
        if not _is_complete(image, file):
            raise DataError(f"Image {called} was cut short: its end mark is missing. Copy it again from its origin.")
        stored_hw = _stored_hw(image)
        upright_hw = stored_hw[::-1] if orientation in _SIDES_SWAPPED else stored_hw
        return ImageInfo(upright_hw, stored_hw, orientation, image.format or "", image.mode)


def open_upright_rgb(source: Path | bytes, name: str | None = None) -> Image.Image:
    """The decoded image: EXIF orientation applied, mode RGB.

    Transparent pixels are laid on white, 16-bit brightness is scaled to 8 bit (65535 becomes 255), grey, palette and
    CMYK are converted.

    Raises:
        DataError: the file cannot be read or decoded, or is too large to be trusted.
    """
    with _opened(source, name) as (image, file, called):
        orientation = _orientation(image, file)
        rgb = _to_rgb(image, called)
        turn = None if _turned_by_pillow(image) else _TURNS.get(orientation)
    upright = rgb if turn is None else rgb.transpose(turn)
    # Colour profile, transparency and orientation describe the stored pixels; kept, they would be applied twice.
    upright.info.clear()
    return upright


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture that somebody has opened, as `open_upright_rgb` gives it, but not turned: it counts as upright.

    Raises:
        DataError: it is no picture, an empty one, or one of decimal numbers.
    """
    if not isinstance(image, Image.Image):
        got = f"{type(image).__name__} {str(image)[:80]!r}" if isinstance(image, str | Path) else type(image).__name__
        raise DataError(
            f"An image was to be a PIL.Image, not {got}: open files by PIL.Image.open, arrays by fromarray."
        )
    if not image.width or not image.height:
        raise DataError(f"An image of {image.width}×{image.height} px has no pixels: leave it out.")
    return _to_rgb(image, f"of {image.width}×{image.height} px")


def turn_boxes(boxes_xyxy: FloatArray, stored_hw: tuple[int, int], orientation: int) -> FloatArray:
    """Boxes `[N, 4]` in pixels of the stored image → pixels of the upright one, for orientations that swap the sides.

    With W × H the stored size, a point (x, y) goes to

    - 5 (mirrored on the main diagonal): (y, x)
    - 6 (turned clockwise): (H − y, x)
    - 7 (mirrored on the other diagonal): (H − y, W − x)
    - 8 (turned counter-clockwise): (y, W − x)
    """
    height, width = stored_hw
    x0, y0, x1, y1 = boxes_xyxy.reshape(-1, 4).T
    left, right = (height - y1, height - y0) if orientation in (6, 7) else (y0, y1)
    top, bottom = (width - x1, width - x0) if orientation in (7, 8) else (x0, x1)
    return np.stack([left, top, right, bottom], axis=1)


@contextmanager
def _opened(source: Path | bytes, name: str | None) -> Iterator[tuple[Image.Image, BinaryIO, str]]:
    """The lazily opened image, its file and what to call it; every way that reading can fail as a DataError."""
    called = f"'{name or (source if isinstance(source, Path) else 'in memory')}'"
    try:
        if isinstance(source, Path) and not source.is_file() and source.exists():  # a pipe would wait for its writer
            raise DataError(f"Image {called} is a folder, device or pipe. Put a file there.")
        with (
            source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file,
            Image.open(file, formats=IMAGE_FORMATS) as image,
        ):
            _refuse_bomb(image.width * image.height, called)
            yield image, file, called
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"Image {called} does not exist. Put the file there or mend its name.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        _refuse_bomb(None, called)
    except Image.UnidentifiedImageError:
        raise DataError(
            f"File {called} is no image that can be read (it must be {', '.join(IMAGE_FORMATS)}). Replace it by a JPEG "
            "or PNG file."
        ) from None
    except _DECODING_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"Image {called} cannot be decoded ({reason}). Replace the file.") from error


def _refuse_bomb(num_pixels: int | None, called: str) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or (num_pixels is not None and num_pixels <= limit):
        return
    size = f"{num_pixels} pixels" if num_pixels else f"more than {2 * limit} pixels"
    raise TooLargeError(
        f"Image {called} has {size}, the limit is {limit}: a small file can fill the memory. "
        "Make the image smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
    )


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    try:
        if image.format == "PNG":
            # Pillow decodes a whole PNG to look for EXIF after the pixels; the chunk headers tell it for nothing.
            exif = Image.Exif()
            exif.load(_png_exif(file))
        else:
            exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF is written by any device in any state; an unreadable one says nothing
        return 1
    return orientation if orientation in _TURNS else 1


def _turned_by_pillow(image: Image.Image) -> bool:
    """Pillow applies the orientation of TIFF files itself, and tells their upright size before it has."""
    return image.format == "TIFF"


def _stored_hw(image: Image.Image) -> tuple[int, int]:
    if _turned_by_pillow(image):
        tags = image.getexif()
        return int(tags[ExifTags.Base.ImageLength]), int(tags[ExifTags.Base.ImageWidth])
    return image.height, image.width


def _is_complete(image: Image.Image, file: BinaryIO) -> bool:
    if image.format in ("JPEG", "MPO"):
        return _jpeg_has_end(file)
    if image.format == "PNG":
        return any(kind == b"IEND" for kind, _, _ in _png_chunks(file))
    return True


def _jpeg_has_end(file: BinaryIO) -> bool:
    """Whether the compressed data is followed by an end mark; cameras may append other things after it."""
    file.seek(0, io.SEEK_END)
    file.seek(max(0, file.tell() - 64))
    if file.read().rstrip(b"\0\r\n ").endswith(b"\xff\xd9"):
        return True
    file.seek(0)
    data = file.read()
    position = 2
    # Walk to the start of the scan: the preview inside EXIF has an end mark of its own, which must not count.
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        position += 1 if data[position + 1] == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4])
    return data.find(b"\xff\xd9", position) >= 0


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """`(kind, offset of the content, length)` of each chunk that is there in full."""
    file.seek(0, io.SEEK_END)
    end = file.tell()
    position = len(_PNG_SIGNATURE)
    while position + 12 <= end:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if position + 12 + length > end:
            return
        yield kind, position + 8, length
        position += 12 + length


def _png_exif(file: BinaryIO) -> bytes:
    for kind, offset, length in _png_chunks(file):
        if kind == b"eXIf":
            file.seek(offset)
            return b"Exif\0\0" + file.read(length)
    return b""


def _to_rgb(image: Image.Image, called: str) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"Image {called} holds decimal numbers, not brightness. Save it with 8 or 16 bit a channel.")
    image.load()
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns a 16-bit scan white.
        scaled = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        scaled += 128  # in place and in whole numbers: a large scan would take gigabytes as decimal ones
        scaled //= 257
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")
