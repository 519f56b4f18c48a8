"""Changes of an image that move its boxes along: torchvision's transforms (v2), put together in three strengths.

The rule for boxes: one of which at least 40 % is still in the picture is kept and cut at the border; one of which less
is left is dropped. Turning makes a box the upright hull of the turned one, so turns are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from boxtune.data.dataset import DetectionDataset
from boxtune.data.sample import Sample
from boxtune.detections import Detections

Strength = Literal["none", "light", "strong"]
VISIBLE_SHARE = 0.4  # of a box's area, below which it is dropped
_GREY = {"fill": 114}


def build_transform(strength: Strength, flip: Sequence[str] = ()) -> v2.Transform:
    """The transform of a strength, for an image and its `BoundingBoxes`.

    Args:
        strength: `light` for a little zoom, shift and colour; `strong` for more, with perspective, blur and JPEG.
        flip: `horizontal`, `vertical` or both; only where neither text nor sides matter.
    """
    steps: list[Any] = []
    if "horizontal" in flip:
        steps.append(v2.RandomHorizontalFlip(0.5))
    if "vertical" in flip:
        steps.append(v2.RandomVerticalFlip(0.5))
    if strength == "light":
        steps += [
            v2.RandomApply([v2.RandomAffine(1.5, translate=(0.06, 0.06), scale=(0.85, 1.15), **_GREY)], p=0.7),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),  # a turn of the hue costs more than all else
        ]
    if strength == "strong":
        steps += [
            v2.RandomPerspective(distortion_scale=0.15, p=0.3, **_GREY),
            v2.RandomApply([v2.RandomAffine(4, translate=(0.15, 0.15), scale=(0.6, 1.4), shear=3, **_GREY)], p=0.9),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.5, hue=0.05),
            v2.RandomGrayscale(0.1),
            v2.RandomApply([v2.GaussianBlur(5, sigma=(0.1, 1.5))], p=0.2),
            v2.RandomApply([v2.JPEG((40, 90))], p=0.3),
        ]
    return v2.Compose(steps or [v2.Identity()])


def augment(sample: Sample, transform: v2.Transform) -> Sample:
    """The sample with its image and boxes changed. Randomness is torch's: `torch.manual_seed` repeats it."""
    # without clamping the boxes come back whole, so what is left of each can be told
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(np.array(sample.detections.xyxy)).float(),
        format="XYXY",
        canvas_size=sample.image_hw,
        clamping_mode=None,
    )
    image, moved = transform(v2.functional.pil_to_tensor(sample.image), boxes)
    detections = sample.detections.with_boxes(moved.numpy().astype(np.float64).reshape(-1, 4))
    return Sample(sample.id, v2.functional.to_pil_image(image), visible(detections, sample.image_hw), sample.source)


def visible(detections: Detections, image_hw: tuple[int, int]) -> Detections:
    """Boxes cut at the border; those of which less than `VISIBLE_SHARE` is left are dropped."""
    cut = detections.clipped(image_hw)
    return cut.select(cut.areas >= VISIBLE_SHARE * np.maximum(detections.areas, 1e-9))


@dataclass(frozen=True, eq=False)
class AugmentedDataset(Sequence[Sample]):
    """A data set whose samples are changed anew in each epoch.

    How a sample is changed hangs on seed, epoch and its number alone: neither on who asks for it, in which process and
    after which others, nor on where a run was resumed. torch's generator is left as it was.

    Attributes:
        dataset: the samples as they are.
        transform: what changes them.
        seed: of all changes.
        epoch: a number in memory that processes which read images share.
    """

    dataset: DetectionDataset
    transform: v2.Transform
    seed: int = 0
    epoch: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64).share_memory_())

    def set_epoch(self, epoch: int) -> None:
        """Whose changes come next."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> AugmentedDataset: ...

    def __getitem__(self, index: int | slice) -> Sample | AugmentedDataset:
        if isinstance(index, slice):
            return AugmentedDataset(self.dataset[index], self.transform, self.seed, self.epoch)
        sample, before = self.dataset[index], torch.get_rng_state()
        draw = np.random.SeedSequence((self.seed, int(self.epoch), index % len(self))).generate_state(1, np.uint64)
        try:
            torch.default_generator.manual_seed(int(draw[0] >> np.uint64(1)))  # that of a GPU stays where it is
            return augment(sample, self.transform)
        finally:
            torch.set_rng_state(before)
