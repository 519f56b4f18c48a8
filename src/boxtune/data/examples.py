"""Worked examples: other samples of a set, each with its answer, that are shown before the one in question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import torch

from boxtune.data.sample import Sample, SampleWithExamples
from boxtune.errors import DataError

_EXAMPLES = 1  # sets these draws apart from those of augmentation


def check_number(num_examples: int, samples: Sequence[Sample]) -> None:
    """Refuse more examples than a set has other samples.

    Raises:
        DataError: says how many there are.
    """
    if num_examples and num_examples >= len(samples):
        raise DataError(
            f"data.examples={num_examples} shows each image with so many others of the training set, which has "
            f"{len(samples)} images: lower data.examples to {max(0, len(samples) - 1)}, or add images."
        )


def draw_others(num_samples: int, index: int, number: int, seed: int, epoch: int) -> list[int]:
    """`number` samples of `num_samples`, no two alike and none of them `index`; the same for the same arguments."""
    assert 0 <= index < num_samples > number
    draw = np.random.default_rng(np.random.SeedSequence((seed, epoch, index, _EXAMPLES)))
    others = draw.choice(num_samples - 1, number, replace=False).tolist()
    return [other + (other >= index) for other in others]


@dataclass(frozen=True, eq=False)
class ExampleDataset(Sequence[SampleWithExamples]):
    """A data set whose samples are shown with others of it as worked examples, anew in each epoch.

    Which ones hangs on seed, epoch and the sample's number alone: neither on who asks, in which process and after
    which others, nor on where a run was resumed. An example is changed as the set itself changes it in this epoch.

    Attributes:
        dataset: the samples, perhaps changed.
        num_examples: shown with each.
        seed: of all draws.
        epoch: a number in memory that processes which read images share.
    """

    dataset: Sequence[Sample]
    num_examples: int
    seed: int = 0
    epoch: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64).share_memory_())

    def __post_init__(self) -> None:
        check_number(self.num_examples, self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Whose examples come next."""
        self.epoch.fill_(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> SampleWithExamples: ...

    @overload
    def __getitem__(self, index: slice) -> list[SampleWithExamples]: ...

    def __getitem__(self, index: int | slice) -> SampleWithExamples | list[SampleWithExamples]:
        """The sample at a position with its examples; of a slice, those that each has in the whole set.

        Raises:
            DataError: an image cannot be decoded; names the record.
        """
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        own = range(len(self))[index]
        others = draw_others(len(self), own, self.num_examples, self.seed, int(self.epoch))
        sample = self.dataset[own]
        examples = tuple(self.dataset[other] for other in others)
        return SampleWithExamples(sample.id, sample.image, sample.detections, sample.source, examples)
