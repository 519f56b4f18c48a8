"""Widths that tensor cores like: zero rows and columns in a frozen vision tower's MLPs, while they are computed with.

Qwen2.5-VL's tower is 3420 wide, which is no multiple of 8, so that cuBLAS falls back to kernels of an older generation
of GPUs. A zero row gives a zero, and a zero column takes it away again: the sum is the same. What is saved has the
width that the checkpoint had.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from boxtune.models.bare import bare_model

_FAST = 8  # numbers of 16 bits in the 16 bytes that a copy of the tensor cores' operands is aligned to
_TILE = 128


class PaddedLinear(nn.Linear):
    """A linear layer with zero rows or columns behind its own, which its state dict does not show.

    Args:
        linear: its weights are taken over.
        in_features, out_features: widths with the zeros.
    """

    def __init__(self, linear: nn.Linear, in_features: int, out_features: int) -> None:
        weight = linear.weight
        super().__init__(in_features, out_features, linear.bias is not None, device="meta", dtype=weight.dtype)
        self.own_shape = (linear.out_features, linear.in_features)
        self.weight = nn.Parameter(self._padded(weight.data), requires_grad=False)
        if linear.bias is not None:
            self.bias = nn.Parameter(self._padded(linear.bias.data), requires_grad=False)
        self.train(linear.training)

    def _padded(self, tensor: torch.Tensor) -> torch.Tensor:
        rows = self.out_features - self.own_shape[0]
        if tensor.ndim == 1:
            return F.pad(tensor, (0, rows))
        return F.pad(tensor, (0, self.in_features - self.own_shape[1], 0, rows))

    def own(self, tensor: torch.Tensor) -> torch.Tensor:
        """What of a weight or bias is the checkpoint's."""
        cut = tensor[: self.own_shape[0]]
        return cut if tensor.ndim == 1 else cut[:, : self.own_shape[1]].contiguous()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in ("weight", "bias"):
            if (found := destination.get(prefix + name)) is not None:
                destination[prefix + name] = self.own(found)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = {prefix + name: state_dict[prefix + name] for name in ("weight", "bias") if prefix + name in state_dict}
        padded = {name: self._padded(tensor) if self._is_own(tensor) else tensor for name, tensor in own.items()}
        super()._load_from_state_dict(state_dict | padded, prefix, *args)

    def _is_own(self, tensor: torch.Tensor) -> bool:
        return tuple(tensor.shape) in (self.own_shape, self.own_shape[:1])

    def extra_repr(self) -> str:
        """With the widths of the checkpoint."""
        return f"{super().extra_repr()}, own={self.own_shape[1]}→{self.own_shape[0]}"


def pad_vision_mlps(model: Any) -> str:
    """Widen the MLPs of the vision blocks where their width is awkward and they are frozen; returns what was done.

    Trained or wrapped ones stay as they are: their gradients and adapters have the checkpoint's shapes.

    Args:
        model: of transformers, or a PeftModel around it.
    """
    bare = bare_model(model)
    width = getattr(bare.config.vision_config, "intermediate_size", None)
    if width is None or width % _FAST == 0:
        return ""
    wide = -(-width // _TILE) * _TILE
    mlps = [block.mlp for block in bare.model.visual.blocks]
    if any(_is_changed(mlp) for mlp in mlps):
        return f"vision MLPs stay {width} wide, which is slow: they are trained"
    for mlp in mlps:
        _widen(mlp, width, wide)
    return f"vision MLPs {width} → {wide} wide"


def unpad_vision_mlps(model: Any) -> None:
    """Put plain layers with the checkpoint's weights back."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PaddedLinear):
                setattr(module, name, _plain(child))


def _is_changed(mlp: nn.Module) -> bool:
    linears = [child for child in mlp.children() if hasattr(child, "weight")]
    return any(type(child) is not nn.Linear or child.weight.requires_grad for child in linears)


def _widen(mlp: nn.Module, width: int, wide: int) -> None:
    for name, child in list(mlp.named_children()):
        if not isinstance(child, nn.Linear):
            continue
        if child.out_features == width:
            setattr(mlp, name, PaddedLinear(child, child.in_features, wide))
        elif child.in_features == width:
            setattr(mlp, name, PaddedLinear(child, wide, child.out_features))


def _plain(padded: PaddedLinear) -> nn.Linear:
    rows, columns = padded.own_shape
    plain = nn.Linear(columns, rows, padded.bias is not None, device="meta", dtype=padded.weight.dtype)
    plain.weight = nn.Parameter(padded.own(padded.weight.data), requires_grad=False)
    if padded.bias is not None:
        plain.bias = nn.Parameter(padded.own(padded.bias.data).clone(), requires_grad=False)
    return plain.train(padded.training)
