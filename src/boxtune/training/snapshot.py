"""What is trained, and what the optimizer knows of it, kept in the machine's memory to return to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from boxtune.training.sharding import local

State = dict[str, Any]


class Snapshot:
    """A copy of trained parameters and of their optimizer's state.

    It takes what they take: of AdamW three fp32 numbers a trained parameter. Copies are written over one another, so
    memory is asked for once.

    Args:
        parameters: that are trained.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = tuple(parameters)
        self.step: int | None = None
        self._weights: list[torch.Tensor] = []
        self._states: dict[int, State] = {}

    @torch.no_grad()
    def take(self, optimizer: Any, step: int) -> None:
        """Copy all.

        Args:
            optimizer: of torch, or accelerate's wrapper around it; only `state` is read.
            step: how many were taken.
        """
        before: Sequence[Any] = self._weights or [None] * len(self.parameters)
        self._weights = [_kept(local(p), old) for p, old in zip(self.parameters, before, strict=True)]
        self._states = {
            index: {name: _kept(_here(value), self._states.get(index, {}).get(name)) for name, value in known.items()}
            for index, parameter in enumerate(self.parameters)
            if (known := optimizer.state.get(parameter))
        }
        self.step = step

    @torch.no_grad()
    def restore(self, optimizer: Any) -> None:
        """Put all back; the optimizer forgets what it learned since."""
        assert self.step is not None, "nothing was taken"
        for index, (parameter, weight) in enumerate(zip(self.parameters, self._weights, strict=True)):
            local(parameter).copy_(weight)
            kept = self._states.get(index)
            if kept is None:
                optimizer.state.pop(parameter, None)
                continue
            known = optimizer.state[parameter]
            for name, value in kept.items():
                if isinstance(value, torch.Tensor) and isinstance(known.get(name), torch.Tensor):
                    local(known[name]).copy_(value)
                else:
                    known[name] = value


def _here(value: Any) -> Any:
    """Of a tensor that is divided among processes, what lies here."""
    return local(value) if isinstance(value, torch.Tensor) else value


def _kept(value: Any, old: Any) -> Any:
    """A copy on the CPU, written over an older one where there is one of the same kind."""
    if not isinstance(value, torch.Tensor):
        return value
    if isinstance(old, torch.Tensor) and old.shape == value.shape and old.dtype == value.dtype:
        return old.copy_(value)
    return value.detach().to("cpu", copy=True)


def num_snapshot_bytes(parameters: Sequence[nn.Parameter]) -> int:
    """Of a snapshot with AdamW's two moments."""
    return sum(3 * parameter.numel() * parameter.element_size() for parameter in parameters)
