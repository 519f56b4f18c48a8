"""Rows within a budget of tokens: properties that hold for any lengths, and how full rows get."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import DataLoaderShard, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st

from boxtune.collators.packing import PackedSampler, least_budget, pack
from boxtune.errors import ConfigError

lengths_of_samples = st.lists(st.integers(1, 60), min_size=1, max_size=80)
budgets = st.integers(60, 200)
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(lengths=lengths_of_samples, budget=budgets, seed=seeds)
def test_every_epoch_shows_every_sample_once_in_the_same_number_of_rows(lengths, budget, seed):
    sampler = PackedSampler(lengths, budget, seed)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        assert len(rows) == len(sampler) == sampler.num_rows
        assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
        assert all(sum(lengths[sample] for sample in row) <= budget for row in rows)


@settings(deadline=None)
@given(lengths=lengths_of_samples, budget=budgets, seed=seeds, num_processes=st.integers(1, 5))
def test_processes_share_an_epoch(lengths, budget, seed, num_processes):
    parts = [PackedSampler(lengths, budget, seed, rank=r, num_processes=num_processes) for r in range(num_processes)]
    rows = [list(part) for part in parts]
    assert {len(part) for part in rows} == {len(parts[0])}  # nobody waits for a step that others do not have
    shown = Counter(sample for part in rows for row in part for sample in row)
    assert set(shown) == set(range(len(lengths)))
    if len(lengths) >= parts[0].num_rows:  # each row has one of its own
        assert set(shown.values()) == {1}


@settings(deadline=None)
@given(lengths=lengths_of_samples, budget=budgets, seed=seeds, epoch=st.integers(0, 3), done=st.integers(0, 80))
def test_going_on_in_the_middle_of_an_epoch_gives_its_rest(lengths, budget, seed, epoch, done):
    """As `Trainer` of transformers does it: batches are skipped, and the epoch is said to the sampler inside."""
    whole = PackedSampler(lengths, budget, seed)
    whole.set_epoch(epoch)
    done = min(done, len(whole))
    rest = skip_first_batches(
        DataLoaderShard(range(len(lengths)), batch_sampler=PackedSampler(lengths, budget, seed)), done
    )
    rest.set_epoch(epoch)
    rest.batch_sampler.batch_sampler.set_epoch(epoch)
    assert list(rest.batch_sampler) == list(whole)[done:]


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9), budget=st.integers(9, 40), window=st.integers(1, 9))
def test_a_row_is_as_full_as_those_that_wait_can_make_it(lengths, budget, window):
    order = list(range(len(lengths)))
    waiting, arriving = order[:window], order[window:]
    for row in pack(order, lengths, budget, window):
        assert row[0] == waiting.pop(0)  # the one that has waited longest
        room = budget - lengths[row[0]]
        choices = itertools.chain(*(itertools.combinations(waiting, n) for n in range(len(waiting) + 1)))
        best = max(total for choice in choices if (total := sum(lengths[s] for s in choice)) <= room)
        assert sum(lengths[sample] for sample in row[1:]) == best
        waiting = [sample for sample in waiting if sample not in row]
        while arriving and len(waiting) < window:
            waiting.append(arriving.pop(0))
    assert not waiting


@settings(deadline=None)
@given(lengths=lengths_of_samples, budget=budgets, num_processes=st.integers(1, 3))
def test_the_least_budget_needs_no_more_rows(lengths, budget, num_processes):
    found = least_budget(lengths, budget, num_processes)
    assert max(lengths) <= found <= budget
    rows = [PackedSampler(lengths, each, num_processes=num_processes).num_rows for each in (found, budget)]
    assert rows[0] <= rows[1]


def test_an_order_is_repeated_and_every_epoch_has_its_own():
    lengths = np.random.default_rng(0).integers(50, 200, 100).tolist()
    again = [PackedSampler(lengths, 1000, seed=3).rows(2) for _ in range(2)]
    assert again[0] == again[1]
    epochs = [PackedSampler(lengths, 1000, seed=3).rows(epoch) for epoch in range(4)]
    others = [PackedSampler(lengths, 1000, seed=4).rows(epoch) for epoch in range(4)]
    assert len({str(rows) for rows in epochs + others}) == 8
    company = [{frozenset(row) for row in rows} for rows in epochs]
    assert not company[0] & company[1]


def test_rows_of_photos_are_full():
    """Tokens of photos and scans at the usual limits: rows hold seven to twenty of them."""
    draw = np.random.default_rng(0)
    for lengths in (draw.integers(256, 1280, 2000), draw.normal(900, 60, 2000).astype(int)):
        assert PackedSampler(lengths.tolist(), 8192).fullness > 0.995


def test_samples_of_one_length_fill_the_least_budget():
    """Seven of 1112 tokens leave a twentieth of 8192 empty, and no company can fill it: 94 % is all that can be."""
    lengths = [1112] * 98
    assert PackedSampler(lengths, 8192).fullness == pytest.approx(7 * 1112 / 8192)
    assert least_budget(lengths, 8192) == 7 * 1112
    assert PackedSampler(lengths, 7 * 1112).fullness == 1.0


def test_fewer_samples_than_processes():
    parts = [PackedSampler([5, 6], 20, rank=rank, num_processes=4) for rank in range(4)]
    shown = [list(part) for part in parts]
    assert all(len(rows) == 1 for rows in shown)
    assert {sample for rows in shown for row in rows for sample in row} == {0, 1}


def test_a_sample_that_is_longer_than_the_budget_is_refused():
    with pytest.raises(ConfigError, match=r"token_budget=100 is less than the longest sample, which has 101 tokens"):
        PackedSampler([30, 101], 100)
