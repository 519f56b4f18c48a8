"""What this machine can do for a run: GPUs, attention kernels, 4 bits, bf16, cores and memory."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from boxtune.inspection.gpu import Gpu, driver_version, list_gpus, why_no_gpu
from boxtune.inspection.kernels import KernelCheck, check_4bit, check_flash_attention
from boxtune.inspection.units import short_bytes

# Linux names what the processor can do; avx512_bf16 and amx_bf16 are x86's, bf16 and svebf16 ARM's
_CPU_FACTS, _BF16_FLAGS = Path("/proc/cpuinfo"), {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
_MEMORY_FACTS = Path("/proc/meminfo")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Cpu:
    """The processor and its memory.

    Attributes:
        num_cores: that this process may use.
        total_bytes: of memory; where a container has a limit, that.
        free_bytes: what could be had without swapping, or None where the system does not say.
        bf16: whether it computes in bf16 natively; None where the system does not say. Without, bf16 runs, but slowly.
    """

    num_cores: int
    total_bytes: int
    free_bytes: int | None
    bf16: bool | None


@dataclass(frozen=True)
class Machine:
    """What was found.

    Attributes:
        torch: its version.
        cuda: version of CUDA that torch was built with, or None.
        driver: version of NVIDIA's driver, or None.
        gpus: all that torch sees.
        why_no_gpu: in one line; None where there is one.
        cpu: see there.
        attention: kernels of attention.
        four_bits: bitsandbytes.
    """

    torch: str
    cuda: str | None
    driver: str | None
    gpus: tuple[Gpu, ...]
    why_no_gpu: str | None
    cpu: Cpu
    attention: tuple[KernelCheck, ...]
    four_bits: tuple[KernelCheck, ...]


def describe_machine() -> Machine:
    """Look at everything; a machine without a GPU is described like any other."""
    return Machine(
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        driver=driver_version(),
        gpus=tuple(list_gpus()),
        why_no_gpu=why_no_gpu(),
        cpu=describe_cpu(),
        attention=tuple(check_flash_attention()),
        four_bits=tuple(check_4bit()),
    )


def describe_cpu() -> Cpu:
    """Cores, memory and bf16 of the processor, as far as the system says."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.is_file() else "max"
    total = min(total, int(limit)) if limit.isdigit() else total
    free = _available_bytes()
    return Cpu(cores, total, None if free is None else min(free, total), _native_bf16())


def print_machine(machine: Machine, console: Console) -> None:
    """One line a thing, with its reason where it cannot be used."""

    def say(text: Text | str) -> None:
        console.print(Text(text) if isinstance(text, str) else text, soft_wrap=True)

    versions = [f"torch {machine.torch}", f"CUDA {machine.cuda}" if machine.cuda else "built without CUDA"]
    say(", ".join([*versions, f"driver {machine.driver}" if machine.driver else "no NVIDIA driver"]))
    say("\nGPU" if machine.gpus else f"\nNo GPU: {machine.why_no_gpu}.")
    for gpu in machine.gpus:
        capability = ".".join(map(str, gpu.capability))
        memory = f"{short_bytes(gpu.free_bytes)} of {short_bytes(gpu.total_bytes)} free"
        bf16 = "bf16" if gpu.bf16 else "no bf16: set model.dtype=float32"
        say(f"{gpu.device}  {gpu.name}, capability {capability}, {gpu.problem or memory}, {bf16}")
    cpu = machine.cpu
    free = "" if cpu.free_bytes is None else f", {short_bytes(cpu.free_bytes)} free"
    bf16 = {True: "bf16 in hardware", False: "bf16 only emulated, slow", None: "bf16 in hardware: unknown"}[cpu.bf16]
    say(f"\nCPU\n{cpu.num_cores} cores, {short_bytes(cpu.total_bytes)} memory{free}, {bf16}")
    where = machine.gpus[0].device if machine.gpus else "the CPU"
    say(f"\nAttention kernels, tried on {where}")
    _print_checks(machine.attention, console)
    say("\n4-bit weights (model.quantize=nf4)")
    _print_checks(machine.four_bits, console)


def _print_checks(checks: Sequence[KernelCheck], console: Console) -> None:
    for check in checks:
        line = Text("yes  " if check.usable else "no   ", style="green" if check.usable else "yellow")
        version = f" {check.version}" if check.version else ""
        said = f"{check.name + version:<16}{'  ' + check.reason if check.reason else ''}"
        console.print(line.append(said.rstrip(), style="default"), soft_wrap=True)


def _available_bytes() -> int | None:
    if not _MEMORY_FACTS.is_file():
        return None
    for line in _MEMORY_FACTS.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _native_bf16() -> bool | None:
    if platform.system() == "Darwin" or not _CPU_FACTS.is_file():
        return None
    for line in _CPU_FACTS.read_text(errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return bool(_BF16_FLAGS & set(line.split()))
    return None
