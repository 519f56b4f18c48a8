"""DeepSpeed's ZeRO: what it has divided, put together for files."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from boxtune import processes
from boxtune.training.sharding import Tensors


def whole_weights(engine: Any, *, only_trained: bool) -> Tensors:
    """Name → tensor in the memory of the machine, for the first process; nothing for the others. All must call.

    What is trained comes in the fp32 of the optimizer: the model itself may hold it rounded to bf16.

    Args:
        engine: DeepSpeed's, around the model.
        only_trained: leave out what is frozen, as an adapter's folder does.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    model: Any = engine.module
    found: Tensors = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    whole: dict[int, torch.Tensor] = {}  # tied ones stay one
    for parameter in model.parameters():
        if parameter.requires_grad:
            whole[id(parameter)] = safe_get_full_fp32_param(parameter)
        elif not only_trained:
            with _gathered(parameter):
                whole[id(parameter)] = parameter.detach().to("cpu", copy=True)
        if id(parameter) in whole:
            whole[id(parameter)] = whole[id(parameter)].detach().cpu() if processes.is_first() else torch.empty(0)
    if not processes.is_first():
        return {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in parameters:
            found |= {} if only_trained else {name: tensor.detach().cpu()}
        elif id(parameters[name]) in whole:
            found[name] = whole[id(parameters[name])]
    return found


def _gathered(parameter: torch.nn.Parameter) -> Any:
    if not hasattr(parameter, "ds_id"):  # ZeRO-2 divides no weights
        return nullcontext()
    from deepspeed.zero import GatheredParameters

    return GatheredParameters(parameter)
