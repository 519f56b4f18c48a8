"""Which samples share a batch where batches hold a fixed number of them: the same steps for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class ShuffledSampler(Sampler[list[int]]):
    """Batches of sample numbers for a DataLoader, each sample once an epoch.

    The order of an epoch is that of accelerate's `SeedableRandomSampler`. All processes together go through it as one
    process with so many times the batch does: also at its end, where what is left is divided among them. Only where
    fewer samples are left than there are processes, some of these are seen by two.

    Args:
        num_samples: of the data set.
        batch_size: of a process.
        seed: of the order.
        rank, num_processes: this process takes every so-many-th batch.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int = 0, *, rank: int = 0, num_processes: int = 1):
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.rank, self.num_processes = rank, num_processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return -(-self.num_samples // (self.batch_size * self.num_processes))

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_samples, generator=generator).tolist()
        together = self.batch_size * self.num_processes
        for begin in range(0, len(order), together):
            samples = order[begin : begin + together]
            if len(samples) == together:
                yield samples[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
            else:
                yield samples[self.rank :: self.num_processes] or [samples[self.rank % len(samples)]]
