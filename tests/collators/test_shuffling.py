"""The same steps for any number of processes."""

from __future__ import annotations

from itertools import chain

import torch
from accelerate.data_loader import SeedableRandomSampler
from hypothesis import given
from hypothesis import strategies as st

from boxtune.collators.shuffling import ShuffledSampler


def steps(num_samples: int, batch_size: int, num_processes: int, epoch: int = 0) -> list[list[int]]:
    """The samples of each step, over all processes."""
    samplers = [
        ShuffledSampler(num_samples, batch_size, 7, rank=rank, num_processes=num_processes)
        for rank in range(num_processes)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    of_processes = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in of_processes} == {len(samplers[0])}
    return [sorted(chain.from_iterable(batches)) for batches in zip(*of_processes, strict=True)]


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_processes_share_the_steps_of_one(num_samples, batch_size, num_processes, epoch):
    alone = steps(num_samples, batch_size * num_processes, 1, epoch)
    shared = steps(num_samples, batch_size, num_processes, epoch)
    assert [set(step) for step in shared] == [set(step) for step in alone]
    assert sorted(chain.from_iterable(alone)) == list(range(num_samples))
    assert shared[:-1] == alone[:-1]
    if len(alone[-1]) >= num_processes:  # else some are seen by two
        assert shared[-1] == alone[-1]


@given(st.integers(1, 30), st.integers(0, 2**32 - 10), st.integers(0, 3))
def test_order_is_that_of_accelerate(num_samples, seed, epoch):
    theirs = SeedableRandomSampler(range(num_samples), generator=torch.Generator(), data_seed=seed)
    theirs.set_epoch(epoch)
    ours = ShuffledSampler(num_samples, 1, seed)
    ours.set_epoch(epoch)
    assert list(chain.from_iterable(ours)) == list(theirs)
