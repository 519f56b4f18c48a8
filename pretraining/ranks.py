"""Several GPUs of one machine: each process draws its own pictures, and all step on the mean of their gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import distributed


class Ranks:
    """This process among those that `torchrun` started; a process alone is one of one."""

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    def join(self) -> torch.device:
        """The device of this process; call it after the drawing workers were forked."""
        if not torch.cuda.is_available():
            device = torch.device("cpu")
        else:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        if self.count > 1:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return device

    def average(self, gradients: torch.Tensor) -> None:
        """Replace them by their mean over all processes."""
        if self.count > 1:
            distributed.all_reduce(gradients)
            gradients /= self.count

    def anyone(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so in any process: clocks differ, but all must stop at the same step."""
        if self.count == 1:
            return flag
        votes = torch.tensor(float(flag), device=device)
        distributed.all_reduce(votes)
        return bool(votes)

    def leave(self) -> None:
        """End the group."""
        if self.count > 1:
            distributed.destroy_process_group()


def one_gradient(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """A single tensor that holds all gradients, so that one message averages them and one kernel clears them."""
    known = list(parameters)
    flat = torch.zeros(sum(p.numel() for p in known), device=known[0].device)
    start = 0
    for parameter in known:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat
