"""What is trained, and what the optimizer knows of it, kept in the machine's memory to return to."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from boxtune.training.host_copies import HostCopies
from boxtune.training.sharding import local


class Snapshot:
    """A copy of trained parameters and of their optimizer's state.

    It takes what they take: of AdamW three fp32 numbers a trained parameter.

    Args:
        parameters: that are trained.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = tuple(parameters)
        self.step: int | None = None
        self._copies = HostCopies()  # (index of a parameter, None or what the optimizer calls it) → copy

    def take(self, optimizer: Any, step: int) -> None:
        """Copy all; a GPU does so while it goes on, see `before_changes`.

        Args:
            optimizer: of torch, or accelerate's wrapper around it; only `state` is read.
            step: how many were taken.
        """
        values: dict[Any, Any] = {}
        for index, parameter in enumerate(self.parameters):
            values[index, None] = local(parameter).detach()
            for name, value in optimizer.state.get(parameter, {}).items():
                values[index, name] = local(value)
        self.step = None  # for as long as some are of one step and some of another
        self._copies.take(values)
        self.step = step

    def before_changes(self) -> None:
        """Belongs between `take` and the next step of the optimizer: a GPU takes that once all is copied."""
        self._copies.wait_on_gpu()

    @torch.no_grad()
    def restore(self, optimizer: Any) -> None:
        """Put all back; the optimizer forgets what it learned since."""
        assert self.step is not None, "nothing was taken"
        states: list[dict[str, Any]] = [{} for _ in self.parameters]
        for (index, name), value in self._copies.read().items():
            if name is None:
                local(self.parameters[index]).copy_(value)
            else:
                states[index][name] = value
        for parameter, kept in zip(self.parameters, states, strict=True):
            if not kept:
                optimizer.state.pop(parameter, None)
                continue
            known = optimizer.state[parameter]
            for name, value in kept.items():
                if not isinstance(value, torch.Tensor):
                    known[name] = copy.deepcopy(value)
                elif isinstance(known.get(name), torch.Tensor):
                    local(known[name]).copy_(value)
                else:
                    known[name] = value.to(local(parameter).device, copy=True)

    def release(self) -> None:
        """When a run is over: there is nothing to return to until the next `take`."""
        self.step = None
        self._copies.release()
        self._copies = HostCopies()


def num_snapshot_bytes(parameters: Sequence[nn.Parameter]) -> int:
    """Of a snapshot with AdamW's two moments."""
    return sum(3 * parameter.numel() * parameter.element_size() for parameter in parameters)
