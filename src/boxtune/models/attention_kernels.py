"""Kernels that attend within the samples of a packed row, and whether they run here: each is tried, not assumed.

All have one form: `kernel(query [T, H, D], key [T, G, D], value [T, G, D], borders [N + 1] int32, longest, scale,
causal)` gives `[T, H, D]`; sample n holds the rows `borders[n]` to `borders[n + 1]`, and G divides H (grouped
queries).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch.nn import functional as F

from boxtune.models.attention_matmul import attend_causally, computes_bf16_on_cpu

NO_GPU = "needs a CUDA GPU, and torch sees none"
VARLEN = "varlen"
SEGMENTS = "segments"
_INSTEAD = "model.attention=auto needs no package"

Kernel = Callable[..., torch.Tensor]


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
class Package:
    """A release line of flash attention: they share module names, so the distribution tells them apart.

    Attributes:
        name: for people.
        key: value of `model.attention`.
        distribution, module: as installed, as imported.
        capability: least compute capability.
        remedy: what to do where it is not installed.
    """

    name: str
    key: str
    distribution: str
    module: str
    capability: tuple[int, int]
    remedy: str


PACKAGES = (
    Package(
        "flash-attn 2",
        "flash_attention_2",
        "flash-attn",
        "flash_attn",
        (8, 0),
        f"pip install flash-attn; {_INSTEAD}",
    ),
    Package("flash-attn 3", "flash_attention_3", "flash-attn-3", "flash_attn_interface", (9, 0), _INSTEAD),
    Package("flash-attn 4", "flash_attention_4", "flash-attn-4", "flash_attn.cute", (9, 0), _INSTEAD),
)
# 3 is written for Hopper and runs nowhere else; 4 for what came after; 2 runs on all
_BY_SPEED = ("flash_attention_3", "flash_attention_4", "flash_attention_2", VARLEN)


def check_package(package: Package, device: str) -> KernelCheck:
    """Whether an installed release of flash attention runs forwards and backwards."""
    found = installed_version(package.distribution)
    if found is None:
        return KernelCheck(package.name, False, None, f"not installed ({package.remedy})")
    if device == "cpu":
        return KernelCheck(package.name, False, found, NO_GPU)
    capability = torch.cuda.get_device_capability()
    if capability < package.capability:
        have, need = (".".join(map(str, pair)) for pair in (capability, package.capability))
        return KernelCheck(package.name, False, found, f"needs compute capability {need}, the GPU has {have}")
    return tried(package.name, lambda: _try(_flash_kernel(package)), found)


def check_varlen() -> KernelCheck:
    """Whether torch's own kernel (`torch.nn.attention.varlen`) runs."""
    if not torch.cuda.is_available():
        return KernelCheck("torch varlen", False, None, NO_GPU)
    return tried("torch varlen", lambda: _try(_torch_kernel()))


def tried(name: str, act: Callable[[], object], found: str | None = None) -> KernelCheck:
    """Run it once and tell what came of it."""
    try:
        act()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except Exception as error:  # whatever a native library raises where it cannot
        reason = str(error).strip().split("\n")[0]
        return KernelCheck(name, False, found, f"{type(error).__name__}: {reason}"[:200])
    return KernelCheck(name, True, found)


def fastest_kernel() -> tuple[str | None, str]:
    """Key of the fastest kernel that runs on this machine's GPU, and why it and no other; None where none runs."""
    refused = []
    packages = {package.key: package for package in PACKAGES}
    for key in _BY_SPEED:
        check = check_varlen() if key == VARLEN else check_package(packages[key], "cuda")
        if check.usable:
            return key, f"{check.name}{f' {check.version}' if check.version else ''} runs here"
        if check.version is not None or key == VARLEN:
            refused.append(f"{check.name}: {check.reason}")
    return None, "; ".join(refused)


def load_kernel(key: str) -> Kernel:
    """The kernel of a key; where its package is missing, importing it raises ImportError."""
    if key == VARLEN:
        return _torch_kernel()
    if key == SEGMENTS:
        return attend_by_segments
    return _flash_kernel(next(package for package in PACKAGES if package.key == key))


def attend_by_segments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scale: float | None,
    causal: bool,
) -> torch.Tensor:
    """Sample after sample through `scaled_dot_product_attention`: exact in any dtype, on any device.

    A step in bf16 on a CPU takes whole matrix products, which its backward pass is faster by.
    """
    lengths = borders.diff().tolist()
    grouped = query.shape[1] != key.shape[1]
    by_products = causal and torch.is_grad_enabled() and query.requires_grad and computes_bf16_on_cpu(query)
    parts = []
    for q, k, v in zip(*(tensor.split(lengths) for tensor in (query, key, value)), strict=True):
        q, k, v = (tensor.transpose(0, 1) for tensor in (q, k, v))
        if by_products:
            out = attend_causally(q, k, v, scale)
        else:
            q, k, v = (tensor[None] for tensor in (q, k, v))
            out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=grouped)[0]
        parts.append(out.transpose(0, 1))
    return torch.cat(parts)


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _torch_kernel() -> Kernel:
    """Flash attention inside torch. 2.15 wants grouped queries announced, 2.11 takes them, or does not."""
    from torch.nn.attention.varlen import varlen_attn

    announced = "enable_gqa" in inspect.signature(varlen_attn).parameters
    repeated = not announced and not _torch_takes_groups()

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        borders: torch.Tensor,
        longest: int,
        scale: float | None,
        causal: bool,
    ) -> torch.Tensor:
        options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0) if causal else (-1, -1)}
        if query.shape[1] != key.shape[1]:
            if announced:
                options["enable_gqa"] = True
            elif repeated:
                times = query.shape[1] // key.shape[1]
                key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        return varlen_attn(query, key, value, borders, borders, longest, longest, **options)  # type: ignore[return-value]

    return attend


@cache
def _torch_takes_groups() -> bool:
    from torch.nn.attention.varlen import varlen_attn

    def attend(q: Any, k: Any, v: Any, borders: Any, longest: int, scale: float | None, causal: bool) -> Any:
        window = (-1, 0) if causal else (-1, -1)
        return varlen_attn(q, k, v, borders, borders, longest, longest, scale=scale, window_size=window)

    return tried("groups", lambda: _try(attend)).usable


def _flash_kernel(package: Package) -> Kernel:
    """`flash_attn_varlen_func`, whose keywords are the same in all three release lines."""
    attend_varlen = importlib.import_module(package.module).flash_attn_varlen_func
    if package.key == "flash_attention_4":  # compiles itself, and cannot be traced
        attend_varlen = torch.compiler.disable(attend_varlen)

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        borders: torch.Tensor,
        longest: int,
        scale: float | None,
        causal: bool,
    ) -> torch.Tensor:
        out = attend_varlen(
            query,
            key,
            value,
            cu_seqlens_q=borders,
            cu_seqlens_k=borders,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            softmax_scale=scale,
            causal=causal,
        )
        return out[0] if isinstance(out, tuple) else out

    return attend


def _try(kernel: Kernel, device: str = "cuda") -> None:
    """Forwards and backwards with grouped queries and the widths of Qwen-VL's heads, against sample after sample."""
    kernels: tuple[Kernel, Kernel] = (kernel, attend_by_segments)
    noise = torch.Generator().manual_seed(0)  # a run's own random numbers stay as they are
    for width, groups, causal in ((128, 1, True), (80, 4, False)):
        tensors = [
            torch.randn(64, heads, width, generator=noise).to(device, torch.bfloat16) for heads in (4, groups, groups)
        ]
        borders = torch.tensor([0, 24, 64], device=device, dtype=torch.int32)
        upstream = torch.ones_like(tensors[0])
        results = []
        for attend in kernels:
            leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
            out = attend(*leaves, borders, 40, width**-0.5, causal)
            results.append([out, *torch.autograd.grad(out, leaves, upstream)])
        for found, expected in zip(*results, strict=True):
            if not torch.allclose(found, expected, rtol=0.1, atol=0.1):
                off = float((found - expected).detach().abs().max())
                raise RuntimeError(f"it is off by {off:.2g} for heads of {width}")
