"""Adapters of wide layers within the product of their base: y = [x | s·xAᵀ] · [W | B]ᵀ.

PEFT writes an adapter's output beside that of the base and adds the two. Where a layer is wide (in the MLP of
Qwen2.5-VL-7B it makes 296 MiB of a row of 8192 tokens), moving these numbers takes longer than computing them, and the
backward pass reads the output's gradient once more. Here the frozen W and the adapter's B lie side by side in one
buffer, of which `base_layer.weight` becomes a view; each sum is made in one go and rounded once. B's own parameter
stays as it is, trained in fp32, and is copied to its place before each forward pass of the language model in training,
whoever has changed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from torch.nn import functional as F

from boxtune.models.bare import bare_model

_NAME = "boxtune::one_product"
_WIDE = 2  # outputs for an input, from which on a layer counts as wide
_FAST = 8  # numbers of 16 bits in the 16 bytes that rows of the tensor cores' operands are aligned to


class JoinableLinear(LoraLinear):
    """PEFT's LoRA of a linear layer, which `join` makes one product in training; everything else is PEFT's own way."""

    base_layer: Any
    joined: tuple[nn.Parameter, ...]
    """[W | B], `[out_features, in_features + rank]`, B with the values of the last forward pass in training. In a tuple
    it is in no state dict and nobody's parameter; of this type the compiler takes its shape as fixed.
    """
    joined_name: str
    """Of the adapter whose B that is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.joined, self.joined_name = (), ""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As PEFT's."""
        if args or kwargs or not self._joins_now(x):
            return super().forward(x, *args, **kwargs)
        (both,), name = self.joined, self.joined_name
        narrow = self.lora_A[name](self.lora_dropout[name](x.to(both.dtype))) * self.scaling[name]
        one_product: Any = torch.ops.boxtune.one_product
        found: torch.Tensor = one_product(
            x.to(both.dtype), narrow, self.lora_B[name].weight, both, self.base_layer.bias
        )
        return found

    def can_join(self) -> bool:
        """Whether one product says all that the layer does; not for variants such as DoRA, nor where others look in."""
        base = self.base_layer
        plain = type(base) is nn.Linear and type(base.weight) is nn.Parameter and not hasattr(base, "_hf_hook")
        if not plain or any(parameter.requires_grad for parameter in base.parameters()):
            return False
        if self.lora_variant or any(self.lora_bias.values()) or self.disable_adapters or self.merged:
            return False
        names = [name for name in self.active_adapters if name in self.lora_A]
        return len(names) == 1 and (self.in_features + self.r[names[0]]) % _FAST == 0

    @torch.no_grad()
    def join(self) -> None:
        """Lay W and B side by side; again where the base's weight has been replaced, moved or cast since."""
        _define_product()
        weight = self.base_layer.weight
        if not self.joined:
            (self.joined_name,) = (name for name in self.active_adapters if name in self.lora_A)
        width = self.in_features + self.r[self.joined_name]
        known = self.joined
        if not known or (known[0].dtype, known[0].device) != (weight.dtype, weight.device):
            self.joined = (nn.Parameter(weight.new_zeros(self.out_features, width), requires_grad=False),)
        view = self.joined[0].data[:, : self.in_features]
        view.copy_(weight)
        weight.data = view

    @torch.no_grad()
    def separate(self) -> None:
        """Give the base a weight of its own again, the same to the bit."""
        weight = self.base_layer.weight
        if self.joined and self._lies_within():
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        self.joined, self.joined_name = (), ""

    def parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B's place in the buffer, and its parameter; only where it is joined.

        Written through `data`, the place has a version of its own: a graph whose backward pass is still to come does
        not take the same numbers, written once more, for a change.
        """
        if not self._lies_within():
            self.join()
        up: Any = self.lora_B[self.joined_name]
        return self.joined[0].data[:, self.in_features :], up.weight.detach()

    def _lies_within(self) -> bool:
        weight, (both,) = self.base_layer.weight, self.joined
        return weight.data_ptr() == both.data_ptr() and weight.dtype == both.dtype

    def _joins_now(self, x: torch.Tensor) -> bool:
        """Not where a model is asked: B's place is not written then. Nor in two precisions: PEFT adds in the wider."""
        if not self.joined or not self.training or self.disable_adapters or self.merged:
            return False
        if self.active_adapters != [self.joined_name] or self.base_layer.weight.requires_grad:
            return False
        dtype = self.joined[0].dtype
        if torch.is_autocast_enabled(x.device.type):
            return torch.get_autocast_dtype(x.device.type) == dtype
        return x.dtype == dtype and self.lora_A[self.joined_name].weight.dtype == dtype


@cache
def _define_product() -> None:
    """Make [x | narrow] · [W | B]ᵀ + bias an operation of torch; B's values come in `both`, `up` is there to get the
    gradient.

    As a function of autograd's it would do, but compiled with gradient checkpointing torch 2.11 keeps the outputs of
    such functions in every block (2.15 does not): half a gigabyte for each of Qwen2.5-VL-7B's, for 8192 tokens.
    """
    schema = "(Tensor x, Tensor narrow, Tensor up, Tensor both, Tensor? bias) -> Tensor"
    product = torch.library.custom_op(_NAME, _product, mutates_args=(), schema=schema)
    product.register_fake(lambda x, narrow, up, both, bias: x.new_empty(*x.shape[:-1], both.shape[0]))
    product.register_autograd(_backward, setup_context=_keep)


def _product(
    x: torch.Tensor, narrow: torch.Tensor, up: torch.Tensor, both: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    return F.linear(torch.cat([x, narrow], dim=-1), both, bias)


def _keep(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
    _, narrow, up, both, _ = inputs
    ctx.save_for_backward(narrow, both)
    ctx.dtype_of_up = up.dtype


def _backward(ctx: Any, gradient: torch.Tensor) -> Any:
    narrow, both = ctx.saved_tensors
    rank = narrow.shape[-1]
    of_x, of_narrow = (gradient @ both).split([both.shape[1] - rank, rank], dim=-1)
    of_up = gradient.flatten(0, -2).t() @ narrow.flatten(0, -2)  # rounded as autocast would, then as the parameter is
    return of_x, of_narrow, of_up.to(ctx.dtype_of_up), None, None


class _Refresh:
    """Before a forward pass in training: B's values of now to their places.

    An object, so that the copy of a model looks after its own adapters.
    """

    def __init__(self, adapters: Sequence[JoinableLinear]) -> None:
        self.adapters = tuple(adapters)

    @torch.no_grad()
    def __call__(self, module: nn.Module, args: Any) -> None:
        if not module.training:
            return
        parts = [adapter.parts() for adapter in self.adapters if adapter.joined]
        if parts:
            places, values = zip(*parts, strict=True)
            torch._foreach_copy_(places, values)


def make_joinable(config: LoraConfig) -> None:
    """Have PEFT build the adapters of wide layers so that they can be joined; they work as before until they are.

    By `_register_custom_module`, PEFT's way to bring modules of one's own. It asks before PEFT's own kinds, so all but
    plain linear layers are handed on to these: 4-bit ones are linear layers too.
    """
    builders: Any = {nn.Linear: _joinable}
    config._register_custom_module(builders)


def join_adapters(model: Any) -> int:
    """Make one product of each wide layer of the language model and its adapter, where they are plain LoRA.

    Args:
        model: of transformers, or a PeftModel around it; on the device and in the dtype that it is trained in.

    Returns:
        How many were joined; 0 without adapters, or with others (4-bit bases, DoRA).
    """
    separate_adapters(model)
    language_model = bare_model(model).model.language_model
    adapters = [m for m in language_model.modules() if isinstance(m, JoinableLinear) and m.can_join()]
    for adapter in adapters:
        adapter.join()
    if adapters:
        language_model.refreshes_adapters = language_model.register_forward_pre_hook(_Refresh(adapters))
        _return_memory(adapters[0])
    return len(adapters)


def separate_adapters(model: Any) -> None:
    """Have them computed in PEFT's way again, with contiguous weights as before."""
    language_model = bare_model(model).model.language_model
    adapters = [m for m in language_model.modules() if isinstance(m, JoinableLinear) and m.joined]
    for adapter in adapters:
        adapter.separate()
    if (hook := vars(language_model).pop("refreshes_adapters", None)) is not None:
        hook.remove()
    if adapters:
        _return_memory(adapters[0])


def _joinable(
    target: nn.Module, adapter_name: str, parameter_name: str | None = None, **kwargs: Any
) -> JoinableLinear | None:
    if type(target) is not nn.Linear or parameter_name is not None or target.out_features < _WIDE * target.in_features:
        return None
    return JoinableLinear(target, adapter_name, **kwargs)


def _return_memory(adapter: JoinableLinear) -> None:
    """Weights of another size do not fit where the ones before were."""
    if adapter.base_layer.weight.is_cuda:
        torch.cuda.empty_cache()
