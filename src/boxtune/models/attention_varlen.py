"""Attention without padding and without masks, as an attention implementation of transformers.

transformers hands a vision tower's borders of images and windows to implementations that have "flash" in their name,
and loops over them in Python for all others (`Qwen2_5_VLVisionAttention.forward`, transformers 5.18–5.23). So the names
here hold it. Packed rows bring their borders (`cu_seq_lens_q`, `max_length_q`) as transformers' own flattening collator
does; without them the borders are where positions start anew.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask, sdpa_mask

from boxtune.models.attention_kernels import Kernel, attend_by_segments, load_kernel

_PREFIX = "boxtune_flash_"


def register_varlen(key: str) -> str:
    """Make the kernel of a key known to transformers; returns the name to give to `set_attn_implementation`.

    Args:
        key: see `boxtune.models.attention_kernels`.
    """
    name = _PREFIX + key
    AttentionInterface.register(name, partial(varlen_attention, kernel=load_kernel(key)))
    AttentionMaskInterface.register(name, varlen_mask)
    return name


def knows_borders(name: str) -> bool:
    """Whether an attention of this name is one of ours, which needs no mask where rows are packed."""
    return name.startswith(_PREFIX)


def varlen_mask(q_length: int, kv_length: int, **options: Any) -> torch.Tensor | None:
    """None where every token counts, `[B, L]` where some are padding, and the mask of sdpa in generation.

    The signature is that of transformers' mask functions.
    """
    if q_length == kv_length:
        return flash_attention_mask(q_length=q_length, kv_length=kv_length, **options)
    return sdpa_mask(q_length=q_length, kv_length=kv_length, **options)


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    *,
    kernel: Kernel,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """`[B, H, L, D]` → `[B, L, H, D]`; sdpa where tokens look back on a cache, or attention has dropout.

    The signature is that of transformers' attention functions.
    """
    batch, num_heads, length, width = query.shape
    if length == 1 and attention_mask is not None and attention_mask.ndim == 4 and not dropout:
        return _one_token(query, key, value, attention_mask, scaling), None
    if key.shape[2] != length or dropout or (attention_mask is not None and attention_mask.ndim == 4):
        _refuse_borders(options)
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **options
        )
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    dtype = _kernel_dtype(query)
    if dtype is None:
        kernel = attend_by_segments
    query, key, value = (tensor.transpose(1, 2).to(dtype or tensor.dtype) for tensor in (query, key, value))
    if attention_mask is not None:
        return _without_padding(query, key, value, attention_mask, scaling, causal, kernel), None
    borders, longest = _borders(batch, length, query.device, options)
    flat = (tensor.reshape(batch * length, -1, width).contiguous() for tensor in (query, key, value))
    return kernel(*flat, borders, longest, scaling, causal).reshape(batch, length, num_heads, width), None


def _one_token(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """`[B, H, 1, D]` on `[B, G, W, D]` → `[B, 1, H, D]`: heads that share a key stand as its rows, nothing is repeated.

    Repeated, the keys of 32 answers would be moved seven times over in each of a step's layers.
    """
    batch, num_heads, _, width = query.shape
    grouped = query.view(batch, key.shape[1], -1, width).to(key.dtype)
    added = mask if mask.dtype == torch.bool else mask.to(key.dtype)
    out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=added, scale=scaling)
    return out.reshape(batch, 1, num_heads, width)


def borders_of(position_ids: torch.Tensor) -> torch.Tensor:
    """Where samples begin and end in a row: `[1, L]` positions that start anew with each → int32 `[N + 1]`."""
    starts = (position_ids[0].diff() != 1).nonzero()[:, 0] + 1
    return F.pad(F.pad(starts, (1, 0)), (0, 1), value=position_ids.shape[1]).int()


def _borders(batch: int, length: int, device: torch.device, options: dict[str, Any]) -> tuple[torch.Tensor, int]:
    borders, longest = options.get("cu_seq_lens_q"), options.get("max_length_q")
    if borders is not None:
        return borders.to(torch.int32), int((borders.diff()).max()) if longest is None else longest
    positions = options.get("position_ids")
    if positions is not None and positions.ndim == 2 and batch == 1:
        borders = borders_of(positions)
        return borders, int(borders.diff().max())
    return torch.arange(0, (batch + 1) * length, length, device=device, dtype=torch.int32), length


def _without_padding(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    causal: bool,
    kernel: Kernel,
) -> torch.Tensor:
    """`[B, L, H, D]`, zeros at padding (`[B, L]` False), on whichever side it is."""
    mask = mask.bool()
    lengths = mask.sum(1)
    borders = F.pad(lengths.cumsum(0), (1, 0)).int()
    places = mask.flatten().nonzero()[:, 0]
    flat = (tensor.flatten(0, 1)[places] for tensor in (query, key, value))
    out = kernel(*flat, borders, int(lengths.max()), scaling, causal)
    return out.new_zeros(mask.numel(), *out.shape[1:]).index_copy(0, places, out).view_as(query)


def _kernel_dtype(query: torch.Tensor) -> torch.dtype | None:
    """What a fused kernel is handed: halves. In fp32, as trained norms give under autocast, what that computes in."""
    if query.dtype != torch.float32:
        return query.dtype
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        return torch.get_autocast_dtype("cuda")
    return None


def _refuse_borders(options: dict[str, Any]) -> None:
    """sdpa knows no borders, and without a mask samples would look into each other."""
    if options.get("cu_seq_lens_q") is not None:
        raise ValueError("a packed row with attention dropout, a cache or a mask of its own cannot be attended exactly")
