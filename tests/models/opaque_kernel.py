"""A kernel that tracing cannot look into, for a CPU: so blocks are compiled here as those on GPUs are."""

from __future__ import annotations

import torch

from boxtune.models.attention_kernels import attend_by_segments


@torch.library.custom_op("boxtune_tests::attend", mutates_args=())
def opaque_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    longest: int,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    return attend_by_segments(query, key, value, borders, longest, scale, causal).contiguous()


@torch.library.custom_op("boxtune_tests::attend_backward", mutates_args=())
def backwards(
    upstream: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    borders: torch.Tensor,
    scale: float,
    causal: bool,
) -> list[torch.Tensor]:
    """Written out, since there is no autograd in here."""
    times, total = query.shape[1] // key.shape[1], query.shape[0]
    keys, values = (tensor.repeat_interleave(times, 1) for tensor in (key, value))
    sample = torch.searchsorted(borders[1:].long(), torch.arange(total), right=True)
    allowed = sample[:, None] == sample[None]
    allowed = allowed.tril() if causal else allowed
    weights = (torch.einsum("qhd,khd->hqk", query, keys) * scale).masked_fill(~allowed, -torch.inf).softmax(-1)
    of_weights = torch.einsum("qhd,khd->hqk", upstream, values)
    of_products = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
    of_keys, of_values = (
        torch.einsum("hqk,qhd->khd", factor, other).view(total, -1, times, query.shape[-1]).sum(2)
        for factor, other in ((of_products, query), (weights, upstream))
    )
    return [torch.einsum("hqk,khd->qhd", of_products, keys).contiguous(), of_keys, of_values]


@opaque_attention.register_fake
def _(query, key, value, borders, longest, scale, causal):
    return torch.empty_like(query)


@backwards.register_fake
def _(upstream, query, key, value, borders, scale, causal):
    return [torch.empty_like(tensor) for tensor in (query, key, value)]


def _keep(ctx, inputs, output):
    query, key, value, borders, _, ctx.scale, ctx.causal = inputs
    ctx.save_for_backward(query, key, value, borders)


def _differentiate(ctx, upstream):
    return (*backwards(upstream.contiguous(), *ctx.saved_tensors, ctx.scale, ctx.causal), None, None, None, None)


opaque_attention.register_autograd(_differentiate, setup_context=_keep)
