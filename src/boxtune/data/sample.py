"""One image with its boxes, as every reader gives it and everything after the readers takes it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from boxtune.detections import Detections


@dataclass(frozen=True)
class Sample:
    """One image and what is on it.

    Attributes:
        id: unique within its data set.
        image: upright (EXIF orientation applied), mode RGB.
        detections: the true boxes, in pixels of `image`.
        source: where the record stands (file, line or annotation id), for error messages.
    """

    id: str
    image: Image.Image
    detections: Detections
    source: str

    @property
    def image_hw(self) -> tuple[int, int]:
        """`(height, width)` of the upright image in pixels."""
        return self.image.height, self.image.width


@dataclass(frozen=True)
class SampleWithExamples(Sample):
    """A sample, and what is shown with answers before it; see `data/examples`.

    Attributes:
        examples: in the order they are shown.
    """

    examples: tuple[Sample, ...] = ()
