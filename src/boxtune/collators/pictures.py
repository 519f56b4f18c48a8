"""Samples by the content of their pictures: one whose features are kept on disk is not decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from PIL import Image

from boxtune.data.dataset import DetectionDataset
from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.models.vision_cache import DamagedFeaturesError, KeptFeatures, VisionCache


@dataclass(frozen=True)
class NamedSample:
    """A sample whose picture has a name in a vision cache.

    Attributes:
        id, detections, source: as of a `Sample`.
        image_hw: `(height, width)` of the upright image in pixels.
        name: of the picture, by its content.
        image: upright, mode RGB; None where the features are kept.
        kept: the features; None where the picture has to be looked at.
        damage: why features that are there could not be used; empty where that is not so.
    """

    id: str
    detections: Detections
    source: str
    image_hw: tuple[int, int]
    name: str
    image: Image.Image | None
    kept: KeptFeatures | None
    damage: str = ""


@dataclass(frozen=True, eq=False)
class NamedPictures(Sequence[NamedSample]):
    """A data set whose pictures are looked for in a vision cache, and opened where they are not found.

    Painted pictures have no file: they are painted and named by their pixels.

    Attributes:
        dataset: whose samples they are.
        cache: that they are looked for in.
    """

    dataset: DetectionDataset
    cache: VisionCache

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> NamedSample: ...

    @overload
    def __getitem__(self, index: slice) -> NamedPictures: ...

    def __getitem__(self, index: int | slice) -> NamedSample | NamedPictures:
        """The sample at a position.

        Raises:
            DataError: the picture cannot be read or decoded; names the record.
        """
        if isinstance(index, slice):
            return NamedPictures(self.dataset[index], self.cache)
        record = self.dataset.records[index]
        try:
            content = record.read()
        except OSError:
            return self._named(self.dataset.sample(index))  # says in its own words what is wrong, or finds it mended
        if content is None:
            return self._named(self.dataset.sample(index))
        name = hashlib.sha256(content).hexdigest()
        kept, damage = self._look_for(name)
        if kept is None or kept.image_hw != record.image_hw:  # of another size: opening it says so
            return _new(self.dataset.sample(index, content), name, damage)
        return NamedSample(record.id, record.detections, record.source, record.image_hw, name, None, kept)

    def _named(self, sample: Sample) -> NamedSample:
        """By its pixels."""
        name = hashlib.sha256(f"{sample.image.size}".encode() + sample.image.tobytes()).hexdigest()
        kept, damage = self._look_for(name)
        if kept is None:
            return _new(sample, name, damage)
        return NamedSample(sample.id, sample.detections, sample.source, sample.image_hw, name, None, kept)

    def _look_for(self, name: str) -> tuple[KeptFeatures | None, str]:
        try:
            return self.cache.read(name), ""
        except DamagedFeaturesError as damage:
            self.cache.remove(name)
            return None, str(damage)


def _new(sample: Sample, name: str, damage: str) -> NamedSample:
    return NamedSample(sample.id, sample.detections, sample.source, sample.image_hw, name, sample.image, None, damage)
