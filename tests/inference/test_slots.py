"""Memory of answers under way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from boxtune.inference.slots import SlotMemory

CONFIG = SimpleNamespace(num_hidden_layers=3, num_key_value_heads=2, head_dim=4)


def memory_of(length: int) -> SlotMemory:
    memory = SlotMemory(CONFIG, 2, torch.device("cpu"), torch.float32)
    memory.grow(length)
    for layer in memory.layers:
        for tensor in layer:
            tensor.normal_()
    return memory


def test_what_is_written_stays_when_memory_grows():
    memory = memory_of(10)
    before = [[tensor.clone() for tensor in layer] for layer in memory.layers]
    assert not memory.grow(64)
    assert memory.grow(65)
    assert memory.length == 128
    for layer, old in zip(memory.layers, before, strict=True):
        for tensor, was in zip(layer, old, strict=True):
            assert tensor.shape == (2, 128, 2, 4)
            assert torch.equal(tensor[:, :64], was)
            assert not tensor[:, 64:].any()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_growing_that_fails_leaves_all_as_it_was(monkeypatch, error):
    memory = memory_of(10)
    layers, zeros, num_made = memory.layers, torch.zeros, 0

    def few_zeros(*args, **options):
        nonlocal num_made
        num_made += 1
        if num_made == 4:
            raise error
        return zeros(*args, **options)

    monkeypatch.setattr(torch, "zeros", few_zeros)
    with pytest.raises(error):
        memory.grow(100)
    assert memory.length == 64
    assert memory.layers is layers
    assert len(layers) == 3


def test_one_slot_is_wiped():
    memory = memory_of(10)
    kept = [[tensor[1].clone() for tensor in layer] for layer in memory.layers]
    memory.wipe(0)
    for layer, others in zip(memory.layers, kept, strict=True):
        for tensor, other in zip(layer, others, strict=True):
            assert not tensor[0].any()
            assert torch.equal(tensor[1], other)
