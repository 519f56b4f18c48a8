"""Copies are what was copied, whatever becomes of it, and a GPU is not waited for."""

from __future__ import annotations

import pytest
import torch

from boxtune.training.host_copies import HostCopies

each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def values_on(device: str) -> dict[object, object]:
    return {
        "odd": torch.arange(7, dtype=torch.uint8, device=device),
        ("pair", 1): torch.randn(33, 5, device=device),
        "half": torch.randn(3, device=device, dtype=torch.bfloat16),
        "turned": torch.randn(4, 6, device=device).T,
        "scalar": torch.tensor(3.0, device=device),
        "nothing": torch.empty(0, 4, device=device),
        "elsewhere": torch.tensor([1, 2]),
        "number": 0.5,
    }


def expect_same(found, values) -> None:
    assert found.keys() == values.keys()
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            assert found[name].device.type == "cpu"
            assert torch.equal(found[name], value.cpu())
        else:
            assert found[name] == value


@each_device
def test_copies_are_what_was_copied(device):
    values, copies = values_on(device), HostCopies()
    copies.take(values)
    before = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
    copies.wait_on_gpu()
    for value in values.values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    expect_same(copies.read(), before)


@each_device
def test_memory_is_asked_for_once(device):
    copies = HostCopies()
    places = []
    for _ in range(3):
        values = values_on(device)
        copies.take(values)
        expect_same(copies.read(), values)
        places.append({n: v.data_ptr() for n, v in copies.read().items() if isinstance(v, torch.Tensor)})
    assert places[0] == places[1] == places[2]


@each_device
def test_another_shape_another_kind_a_new_name(device):
    copies = HostCopies()
    for values in (
        {"a": torch.ones(2, device=device), "b": 1},
        {"a": torch.ones(3, device=device), "b": torch.zeros(2, device=device)},
        {"a": torch.ones(3, device=device, dtype=torch.float64), "c": torch.ones(5, device=device), "b": None},
        {"c": torch.zeros(5, device=device)},
        {},
    ):
        copies.take(values)
        expect_same(copies.read(), values)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for():
    """What it was given before goes on while copies are asked for, and what it is given behind them comes later."""
    value = torch.ones(64, 1 << 20, device="cuda")
    factor = torch.randn(8192, 8192, device="cuda")
    copies = HostCopies()
    for num_products in (1, 30):  # a kernel's first launch waits
        value.fill_(1)
        for _ in range(num_products):
            factor @ factor
        value += 1
        before = torch.cuda.Event()
        before.record()
        copies.take({"value": value})
        copies.wait_on_gpu()
        value.zero_()
        is_there = before.query()
        assert copies.read()["value"].eq(2).all()
    assert not is_there
