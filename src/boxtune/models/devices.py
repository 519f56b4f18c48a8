"""The device that a model is on: which one is meant, what room it has, how it computes."""

from __future__ import annotations

import os
from typing import Any

import torch

from boxtune.errors import ConfigError


def autocast_for(device: torch.device) -> Any:
    """bf16 arithmetic on GPUs, plain elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def pick_device(wish: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the first GPU, or the CPU; of several processes on a machine each has its own GPU.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if wish in (None, "auto"):
        return _of_process(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = torch.device(wish)  # type: ignore[arg-type]
    except RuntimeError:
        raise ConfigError(f"Unknown device '{wish}': use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"Device '{wish}' asked for, but torch sees no GPU here: use model.device=cpu.")
    return _of_process(device)


def _of_process(device: torch.device) -> torch.device:
    """Of `cuda` without a number, the GPU that torchrun means for this process."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that a tensor could take now, what torch holds in reserve included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
