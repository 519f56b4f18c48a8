"""Which samples are shown as worked examples, and that it is always the same ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from boxtune.data.augmentation import AugmentedDataset, build_transform
from boxtune.data.dataset import load_dataset
from boxtune.data.examples import ExampleDataset, check_number, draw_others
from boxtune.errors import DataError


@pytest.fixture(scope="module")
def painted():
    return load_dataset("synthetic:nutrition?n=5&seed=2", "train")


def shown(sample) -> list[str]:
    return [sample.id, *(example.id for example in sample.examples)]


@given(st.integers(2, 40), st.data(), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_others_are_drawn_without_the_sample_itself(num_samples, data, seed, epoch):
    index = data.draw(st.integers(0, num_samples - 1))
    number = data.draw(st.integers(1, num_samples - 1))
    others = draw_others(num_samples, index, number, seed, epoch)
    assert others == draw_others(num_samples, index, number, seed, epoch)
    assert len(set(others)) == number
    assert set(others) <= set(range(num_samples)) - {index}


def test_every_other_sample_is_drawn_equally_often():
    drawn = Counter(other for epoch in range(3000) for other in draw_others(6, 2, 2, 0, epoch))
    assert drawn.keys() == {0, 1, 3, 4, 5}
    assert all(abs(count - 3000 * 2 / 5) < 120 for count in drawn.values())  # four standard deviations: 108


def test_examples_hang_on_seed_epoch_and_sample(painted):
    dataset = ExampleDataset(painted, 2, seed=3)
    first = [shown(dataset[index]) for index in range(len(dataset))]
    assert [shown(dataset[index]) for index in reversed(range(len(dataset)))][::-1] == first
    assert [shown(sample) for sample in dataset[1:3]] == first[1:3]
    assert shown(dataset[-1]) == first[-1]
    dataset.set_epoch(1)
    assert [shown(sample) for sample in dataset[:]] != first
    dataset.set_epoch(0)
    assert [shown(sample) for sample in dataset[:]] == first
    assert [shown(sample) for sample in ExampleDataset(painted, 2, seed=4)[:]] != first


def test_reading_processes_draw_the_same(painted):
    dataset = ExampleDataset(painted, 1, seed=0)
    dataset.set_epoch(2)
    alone = [shown(sample) for sample in dataset[:]]
    loader = DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=lambda batch: shown(batch[0]))
    assert list(loader) == alone


def test_examples_are_changed_as_the_set_changes_them(painted):
    changed = AugmentedDataset(painted, build_transform("strong"), seed=5)
    dataset = ExampleDataset(changed, 2, seed=5)
    dataset.set_epoch(4)
    assert int(changed.epoch) == 4
    before = torch.get_rng_state()
    sample = dataset[1]
    assert torch.equal(torch.get_rng_state(), before)
    by_id = {one.id: one for one in (changed[index] for index in range(len(changed)))}
    for one in (sample, *sample.examples):
        assert np.array_equal(np.asarray(one.image), np.asarray(by_id[one.id].image))
        assert one.detections == by_id[one.id].detections
    assert not np.array_equal(np.asarray(sample.image), np.asarray(painted[1].image))


@pytest.mark.parametrize("number", [5, 9])
def test_too_few_samples_are_refused(painted, number):
    with pytest.raises(DataError, match=r"5 images: lower data\.examples to 4, or add images"):
        ExampleDataset(painted, number)
    check_number(4, painted)
    check_number(0, [])
