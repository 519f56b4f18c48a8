"""A snapshot brings back weights and the optimizer's state, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from boxtune.training.snapshot import Snapshot, num_snapshot_bytes

OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "plain": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
}


def a_step(parameters, optimizer, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=noise).to(parameter.device)
    optimizer.step()


def made(kind: str, device: str = "cpu") -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    parameters = [nn.Parameter(torch.ones(3, 2, device=device)), nn.Parameter(torch.zeros(4, device=device))]
    return parameters, OPTIMIZERS[kind](parameters)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("num_before", [0, 1, 3])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_follows_is_what_would_have_followed(kind, num_before, device):
    """Of no use to it were the steps in between, and numbers that are not finite."""
    parameters, optimizer = made(kind, device)
    snapshot = Snapshot(parameters)
    for seed in range(num_before):
        snapshot.take(optimizer, seed)  # copies are written over one another
        a_step(parameters, optimizer, seed)
    snapshot.take(optimizer, num_before)
    expected = []
    for attempt in range(2):
        if attempt:
            with torch.no_grad():
                parameters[0].fill_(torch.nan)
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        value.fill_(torch.inf)
            snapshot.restore(optimizer)
        for seed in range(10, 13):
            a_step(parameters, optimizer, seed)
        expected.append(copy.deepcopy([p.detach() for p in parameters]))
    assert snapshot.step == num_before
    assert all(torch.equal(*pair) for pair in zip(*expected, strict=True))


def test_copies_do_not_follow_what_is_copied():
    parameters, optimizer = made("adamw")
    snapshot = Snapshot(parameters)
    snapshot.take(optimizer, 0)
    a_step(parameters, optimizer, 0)
    snapshot.restore(optimizer)
    assert parameters[0].eq(1).all()
    assert parameters[1].eq(0).all()
    assert not optimizer.state


def test_a_copy_that_failed_is_none(monkeypatch):
    """Half of it would be of one step and half of another."""
    parameters, optimizer = made("plain")
    snapshot = Snapshot(parameters)
    snapshot.take(optimizer, 0)

    def fail(values):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(snapshot._copies, "take", fail)
        with pytest.raises(torch.OutOfMemoryError):
            snapshot.take(optimizer, 50)
    assert snapshot.step is None
    snapshot.take(optimizer, 51)
    assert snapshot.step == 51


def test_nothing_that_is_copied_is_shared():
    """Not a list that an optimizer keeps, and not a tensor that it has lost since."""
    parameters, optimizer = made("momentum")
    a_step(parameters, optimizer, 0)
    optimizer.state[parameters[0]]["seen"] = seen = [1]
    snapshot = Snapshot(parameters)
    snapshot.take(optimizer, 1)
    seen.append(2)
    del optimizer.state[parameters[0]]["momentum_buffer"]
    expected = [p.detach().clone() for p in parameters]
    for _ in range(2):
        snapshot.restore(optimizer)
        assert optimizer.state[parameters[0]]["seen"] == [1]
        optimizer.state[parameters[0]]["seen"].append(3)
        assert all(torch.equal(*pair) for pair in zip(parameters, expected, strict=True))
        a_step(parameters, optimizer, 1)
        expected_next = [p.detach().clone() for p in parameters]
        snapshot.restore(optimizer)
        a_step(parameters, optimizer, 1)
        assert all(torch.equal(*pair) for pair in zip(parameters, expected_next, strict=True))


def test_one_is_gone_when_the_run_is_over():
    parameters, optimizer = made("adamw")
    snapshot = Snapshot(parameters)
    snapshot.take(optimizer, 0)
    snapshot.release()
    assert snapshot.step is None
    snapshot.take(optimizer, 4)  # another run
    snapshot.restore(optimizer)
    assert snapshot.step == 4


def test_bytes_of_one():
    parameters, optimizer = made("adamw")
    a_step(parameters, optimizer, 0)
    weights = sum(p.nbytes for p in parameters)
    moments = sum(state[name].nbytes for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq"))
    assert num_snapshot_bytes(parameters) == weights + moments
