"""Asking a model in the middle of its training, without a trace in what follows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


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
    python, arrays, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    modules = list(model.modules())
    in_training = [module.training for module in modules]
    offsets = [(module, module.rope_deltas) for module in modules if "rope_deltas" in vars(module)]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        for module, training in zip(modules, in_training, strict=True):
            module.training = training
        for module, offset in offsets:
            module.rope_deltas = offset
