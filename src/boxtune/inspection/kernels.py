"""Which kernels run on this machine. Each is tried on a few numbers, which is the only proof that it can."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from boxtune.errors import ModelError
from boxtune.models.quantize import require_bitsandbytes

_NO_GPU = "needs a CUDA GPU, and torch sees none"


@dataclass(frozen=True)
class KernelCheck:
    """Whether one kernel can be used here.

    Attributes:
        name: of the kernel.
        usable: it ran, just now.
        version: of its package, or None where it has none or is not installed.
        reason: why it cannot be used, in one line; empty where it can.
    """

    name: str
    usable: bool
    version: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Package:
    """A release line of flash attention: they share module names, so the distribution tells them apart."""

    name: str
    distribution: str
    module: str
    capability: tuple[int, int]
    remedy: str


_INSTEAD = "model.attention=sdpa needs no package"
_PACKAGES = (
    _Package("flash-attn 2", "flash-attn", "flash_attn", (8, 0), f"pip install flash-attn; {_INSTEAD}"),
    _Package("flash-attn 3", "flash-attn-3", "flash_attn_interface", (9, 0), _INSTEAD),
    _Package("flash-attn 4", "flash-attn-4", "flash_attn.cute", (9, 0), _INSTEAD),
)
_SDPA = {  # backend → whether it is for GPUs only
    "sdpa flash": (SDPBackend.FLASH_ATTENTION, False),
    "sdpa efficient": (SDPBackend.EFFICIENT_ATTENTION, True),
    "sdpa cudnn": (SDPBackend.CUDNN_ATTENTION, True),
    "sdpa math": (SDPBackend.MATH, False),
}


def check_flash_attention() -> list[KernelCheck]:
    """Attention kernels, each run in bf16 on the first GPU, or on the CPU where there is none.

    The packages flash-attn 2, 3 and 4; torch's own kernel for rows of several samples
    (`torch.nn.attention.varlen`); and the backends of `scaled_dot_product_attention`.
    """
    has_gpu = torch.cuda.is_available()
    device = "cuda" if has_gpu else "cpu"
    checks = [_check_package(package, device) for package in _PACKAGES]
    checks.append(_tried("torch varlen", _varlen) if has_gpu else KernelCheck("torch varlen", False, None, _NO_GPU))
    for name, (backend, needs_gpu) in _SDPA.items():
        if needs_gpu and not has_gpu:
            checks.append(KernelCheck(name, False, None, _NO_GPU))
        else:
            checks.append(_tried(name, partial(_sdpa, backend, device)))
    return checks


def check_4bit() -> list[KernelCheck]:
    """Whether bitsandbytes packs weights into 4 bits, on the CPU and on the first GPU."""
    found = _version("bitsandbytes")
    checks = []
    for device in ("cpu", "cuda"):
        name = f"4-bit on {device}"
        if device == "cuda" and not torch.cuda.is_available():
            checks.append(KernelCheck(name, False, found, _NO_GPU))
            continue
        try:
            require_bitsandbytes(device)
        except ModelError as error:
            checks.append(KernelCheck(name, False, found, str(error)))
        else:
            checks.append(KernelCheck(name, True, found))
    return checks


def _check_package(package: _Package, device: str) -> KernelCheck:
    found = _version(package.distribution)
    if found is None:
        return KernelCheck(package.name, False, None, f"not installed ({package.remedy})")
    if device == "cpu":
        return KernelCheck(package.name, False, found, _NO_GPU)
    capability = torch.cuda.get_device_capability()
    if capability < package.capability:
        have, need = (".".join(map(str, pair)) for pair in (capability, package.capability))
        return KernelCheck(package.name, False, found, f"needs compute capability {need}, the GPU has {have}")
    return _tried(package.name, partial(_flash, package.module), found)


def _tried(name: str, act: Callable[[], object], found: str | None = None) -> KernelCheck:
    try:
        act()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except Exception as error:  # whatever a native library raises where it cannot
        reason = str(error).strip().split("\n")[0]
        return KernelCheck(name, False, found, f"{type(error).__name__}: {reason}"[:200])
    return KernelCheck(name, True, found)


def _flash(module: str) -> None:
    query = torch.randn(1, 64, 2, 64, device="cuda", dtype=torch.bfloat16)
    importlib.import_module(module).flash_attn_func(query, query, query)


def _varlen() -> None:
    from torch.nn.attention.varlen import varlen_attn

    query = torch.randn(64, 2, 64, device="cuda", dtype=torch.bfloat16)
    borders = torch.tensor([0, 24, 64], device="cuda", dtype=torch.int32)
    varlen_attn(query, query, query, borders, borders, 40, 40)


def _sdpa(backend: SDPBackend, device: str) -> None:
    query = torch.randn(1, 2, 64, 64, device=device, dtype=torch.bfloat16)
    with sdpa_kernel([backend]):
        F.scaled_dot_product_attention(query, query, query)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
