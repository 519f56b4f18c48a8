"""Which kernels run on this machine. Each is tried on a few numbers, which is the only proof that it can."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from boxtune.errors import ModelError
from boxtune.models.attention_kernels import (
    NO_GPU,
    PACKAGES,
    KernelCheck,
    check_package,
    check_varlen,
    installed_version,
    tried,
)
from boxtune.models.quantize import require_bitsandbytes

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
    checks = [check_package(package, device) for package in PACKAGES]
    checks.append(check_varlen())
    for name, (backend, needs_gpu) in _SDPA.items():
        if needs_gpu and not has_gpu:
            checks.append(KernelCheck(name, False, None, NO_GPU))
        else:
            checks.append(tried(name, partial(_sdpa, backend, device)))
    return checks


def check_4bit() -> list[KernelCheck]:
    """Whether bitsandbytes packs weights into 4 bits, on the CPU and on the first GPU."""
    found = installed_version("bitsandbytes")
    checks = []
    for device in ("cpu", "cuda"):
        name = f"4-bit on {device}"
        if device == "cuda" and not torch.cuda.is_available():
            checks.append(KernelCheck(name, False, found, NO_GPU))
            continue
        try:
            require_bitsandbytes(device)
        except ModelError as error:
            checks.append(KernelCheck(name, False, found, str(error)))
        else:
            checks.append(KernelCheck(name, True, found))
    return checks


def _sdpa(backend: SDPBackend, device: str) -> None:
    query = torch.randn(1, 2, 64, 64, device=device, dtype=torch.bfloat16)
    with sdpa_kernel([backend]):
        F.scaled_dot_product_attention(query, query, query)
