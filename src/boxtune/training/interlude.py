"""Asking a model in the middle of its training, without a trace in what follows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from boxtune.training.generators import Generators

_NARROW = (torch.bfloat16, torch.float16)


@contextmanager
def interlude(model: Any) -> Iterator[None]:
    """Whatever is asked of the model inside, the run goes on as if it had not been, to the bit.

    Put back are the random generators of python, numpy and torch (every GPU), which parts are in training mode, and
    the position offsets that Qwen-VL's models keep of their last question (`rope_deltas` in transformers'
    modeling_qwen2_vl.py): made under inference mode, they would break a backward pass. Weights, gradients and
    configurations are not copied: nothing that generates changes them.

    Args:
        model: of transformers, or a PeftModel around it.
    """
    generators = Generators()
    modules = list(model.modules())
    in_training = [module.training for module in modules]
    offsets = [(module, module.rope_deltas) for module in modules if "rope_deltas" in vars(module)]
    try:
        yield
    finally:
        generators.put_back()
        for module, training in zip(modules, in_training, strict=True):
            module.training = training
        for module, offset in offsets:
            module.rope_deltas = offset


@contextmanager
def as_loaded(model: Any) -> Iterator[None]:
    """Compute inside as `load_detector` will with the saved weights; outside of it nothing has changed.

    accelerate wraps the forward of a model in training with autocast, on a CPU too (`Accelerator.prepare_model` of
    1.15, which keeps the plain one as `_original_forward`), and frozen weights may be bf16 there. `boxtune evaluate`
    does neither, and a figure of a run must be the figure of its folder. On a GPU both run in bf16 autocast.

    Args:
        model: of transformers, or a PeftModel around it; wrapped by accelerate or not.
    """
    own = vars(model)
    wrapped = own.get("forward")
    narrow = [] if model.device.type == "cuda" else [p for p in model.parameters() if p.dtype in _NARROW]
    dtypes = [parameter.dtype for parameter in narrow]
    if "_original_forward" in own:
        model.forward = own["_original_forward"]
    for parameter in narrow:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        if "_original_forward" in own:
            model.forward = wrapped
        for parameter, dtype in zip(narrow, dtypes, strict=True):  # back without loss: these values were narrow before
            parameter.data = parameter.data.to(dtype)
