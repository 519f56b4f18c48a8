"""What a device is told and asked of a step without waiting for it: whether the optimizer is to leave it out."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed


def everywhere(flags: torch.Tensor) -> torch.Tensor:
    """1 where it is so in any process."""
    numbers = flags.float()
    if distributed.is_initialized() and distributed.get_world_size() > 1:
        distributed.all_reduce(numbers, op=distributed.ReduceOp.MAX)
    return numbers


def agreed(flags: torch.Tensor) -> list[bool]:
    """True where it is in any process; waits for the device."""
    return [number > 0 for number in everywhere(flags).tolist()]


def can_leave_out(optimizer: Any) -> bool:
    """Whether a step of it can be left out on the device: torch's fused Adam reads a flag, for loss scales."""
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's around torch's
    return isinstance(inner, torch.optim.Adam) and all(part.get("fused") for part in inner.param_groups)


def leave_out(optimizer: Any, flag: torch.Tensor | None) -> None:
    """Have the next step left out where the flag is 1; see `torch.amp.GradScaler.step`."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if flag is None:
        del inner.found_inf
    else:
        inner.found_inf = flag
