"""Pictures that others send: looked at by their header before a pixel is decoded, and refused where they are too much.

A small file can hold a picture that fills the memory (an image bomb). So the number of bytes, the number of pixels and
the shape are checked in this order; `boxtune.data.images` takes no format that makes Pillow start other programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PIL import Image

from boxtune.data.images import open_upright_rgb, probe_image
from boxtune.errors import DataError, TooLargeError

MOST_STRETCHED: Final = 200
"""Long side by short side, the limit of Qwen's image processors (`smart_resize` of transformers)."""


@dataclass(frozen=True)
class UploadLimits:
    """How much of a picture is taken.

    Attributes:
        max_bytes: of the file.
        max_pixels: width × height; an RGB picture takes three bytes of memory for each.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000

    @classmethod
    def of_options(cls, max_megabytes: float, max_megapixels: float) -> UploadLimits:
        """Limits in millions of bytes and pixels, as users give them."""
        return cls(round(max_megabytes * 1e6), round(max_megapixels * 1e6))


def check_upload(content: bytes, name: str, limits: UploadLimits) -> tuple[int, int]:
    """`(height, width)` in pixels of the upright picture; nothing is decoded.

    Args:
        content: the file.
        name: what to call it in an error.
        limits: see there.

    Raises:
        TooLargeError: too many bytes or pixels.
        DataError: no picture, or one so stretched that no model takes it.
    """
    if len(content) > limits.max_bytes:
        raise TooLargeError(
            f"'{name}' has {len(content):,} bytes, the limit is {limits.max_bytes:,}: send a smaller picture."
        )
    height, width = probe_image(content, name).image_hw
    if height * width > limits.max_pixels:
        raise TooLargeError(
            f"'{name}' has {width}×{height} pixels, the limit is {limits.max_pixels:,}: send a smaller picture."
        )
    if max(height, width) > MOST_STRETCHED * min(height, width):
        raise DataError(f"'{name}': the models take no picture of {width}×{height} pixels: cut it into parts.")
    return height, width


def open_upload(content: bytes, name: str, limits: UploadLimits) -> Image.Image:
    """The picture, upright and RGB.

    Args:
        content, name, limits: as in `check_upload`.

    Raises:
        TooLargeError, DataError: as `check_upload`, and for pixels that cannot be decoded.
    """
    check_upload(content, name, limits)
    return open_upright_rgb(content, name)
