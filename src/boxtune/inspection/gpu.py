"""GPUs as torch sees them: which, how much of their memory is free, and why there is none where there is none."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from dataclasses import dataclass

import torch

_BF16_SINCE = (8, 0)  # compute capability of Ampere, the first with bf16 in its matrix units
_NVIDIA_SMI_SECONDS = 20


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: N of the device `cuda:N`.
        name: of the model.
        capability: compute capability, `(major, minor)`.
        free_bytes, total_bytes: of its memory; free is what no process holds at the moment.
        bf16: whether it computes in bf16 natively.
        problem: why it cannot be used, or None.
    """

    index: int
    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int
    bf16: bool
    problem: str | None = None

    @property
    def device(self) -> str:
        """Name for `--device` and `model.device`."""
        return f"cuda:{self.index}"


def find_available_gpus(min_free_bytes: int = 0) -> list[Gpu]:
    """GPUs that can be used and have this much memory free, the one with the most first; none is no error.

    Args:
        min_free_bytes: such as `20 * 2**30`.
    """
    usable = [gpu for gpu in list_gpus() if gpu.problem is None and gpu.free_bytes >= min_free_bytes]
    return sorted(usable, key=lambda gpu: -gpu.free_bytes)


def list_gpus() -> list[Gpu]:
    """Every GPU that torch sees, those that cannot be used too, in torch's order."""
    return [_describe(index) for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]


def why_no_gpu() -> str | None:
    """Why torch sees no GPU, in one line; None where it sees one."""
    if torch.cuda.is_available():
        return None
    driver = driver_version()
    if not torch.backends.cuda.is_built():
        there = f" although the machine has one (driver {driver})" if driver else ""
        return f"this torch ({torch.__version__}) is built without CUDA{there}: install a CUDA build to use a GPU"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and driver:
        return f"CUDA_VISIBLE_DEVICES='{hidden}' hides the GPUs: unset it, or name those to use"
    if driver:
        return (
            f"torch {torch.__version__} finds none although driver {driver} is there: the driver may be too old for it"
        )
    return "no NVIDIA driver answers on this machine; training and inference run on the CPU"


def driver_version() -> str | None:
    """Version of NVIDIA's driver, or None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip().split("\n")[0] or None


def clear_memory() -> int:
    """Give back what nothing refers to any more; returns the bytes by which torch's hold on the GPUs has shrunk.

    Python's garbage first, since it may hold tensors, then torch's cache of freed blocks on each GPU. What a variable
    still refers to stays: `del model` first.
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)
    before = sum(torch.cuda.memory_reserved(index) for index in gpus)
    gc.collect()
    if gpus:
        torch.cuda.empty_cache()
    return before - sum(torch.cuda.memory_reserved(index) for index in gpus)


def _describe(index: int) -> Gpu:
    facts = torch.cuda.get_device_properties(index)
    capability = (facts.major, facts.minor)
    bf16 = capability >= _BF16_SINCE
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:  # full, in use by one process alone, or broken
        problem = str(error).strip().split("\n")[0]
        return Gpu(index, facts.name, capability, 0, facts.total_memory, bf16, problem)
    return Gpu(index, facts.name, capability, free, total, bf16)
