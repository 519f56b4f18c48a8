"""FSDP2: weights, gradients and the optimizer's state divided among the processes, and put together again for files.

What is written is what one process would write, so that a checkpoint knows no number of processes: `optimizer.pt` in
torch's own form, weights in transformers' or PEFT's. Sharding itself is accelerate's (`utils/fsdp_utils.py`), by
`torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from boxtune import processes
from boxtune.errors import ConfigError

Tensors = dict[str, torch.Tensor]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What of a tensor lies here; of one that is not divided, all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be divided, with gradients; all processes must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_sharded(model: Any) -> bool:
    """Whether the weights of a model are divided."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def settle(accelerator: Any, plugin: FullyShardedDataParallelPlugin | None) -> None:
    """Have accelerate shard as boxtune needs it; before a model is prepared.

    Gradients are added up in fp32, as DDP does it, not in the precision that is computed in. And accelerate 1.15
    leaves the CPU out of the devices that FSDP is for (`AcceleratorState.__init__`), where torch has it.

    Args:
        accelerator: of the run.
        plugin: that was asked for; None: what `accelerate launch` says in the environment.

    Raises:
        ConfigError: FSDP1 is asked for.
    """
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = plugin or FullyShardedDataParallelPlugin()
        state.distributed_type = DistributedType.FSDP
    plugin = state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ConfigError(
            "FSDP1 is asked for, boxtune knows FSDP2: set fsdp_version: 2, or leave trainer.fsdp_config.version out."
        )
    if state.mixed_precision == "bf16":
        computed = torch.bfloat16
        plugin.mixed_precision_policy = MixedPrecisionPolicy(computed, torch.float32, computed)
    else:
        plugin.mixed_precision_policy = MixedPrecisionPolicy()


def whole_weights(model: Any, *, only_trained: bool) -> Tensors:
    """Name → tensor in the memory of the machine, for the first process; nothing for the others. All must call.

    Args:
        model: sharded.
        only_trained: leave out what is frozen, as an adapter's folder does.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    known = {n: tensor for n, tensor in model.state_dict(keep_vars=True).items() if not only_trained or n in trained}
    whole = {id(tensor): _whole(tensor) for tensor in known.values()}  # tied ones stay one
    return {name: found for name, tensor in known.items() if (found := whole[id(tensor)]) is not None}


@contextmanager
def of_own_class(model: Any) -> Iterator[None]:
    """Inside, the class of a model is the one it had before `fully_shard`: by its name transformers 5.23 knows how the
    weights of a checkpoint are called (`get_model_conversion_mapping`).
    """
    sharded = type(model)
    if not isinstance(model, FSDPModule):
        yield
        return
    model.__class__ = sharded.__bases__[1]  # `_fully_shard` of torch: FSDPModule and the model's own
    try:
        yield
    finally:
        model.__class__ = sharded


def whole_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """As `optimizer.state_dict()` of one process, for the first process; all must call."""
    known = optimizer.state_dict()
    state = {
        index: {name: _whole(value) if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        for index, values in known["state"].items()
    }
    return {**known, "state": state}


def load_whole_optimizer_state(optimizer: Any, path: Path) -> None:
    """Take this process's part of an `optimizer.pt`, whoever has written it.

    Args:
        optimizer: of the sharded model.
        path: of the file; it is mapped, not read as a whole.
    """
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {name: _divided(value, parameters[index]) for name, value in values.items()}
        for index, values in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": state})


def _whole(tensor: torch.Tensor) -> torch.Tensor | None:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu() if processes.is_first() else None


def _divided(value: Any, parameter: torch.Tensor) -> Any:
    """A value of the optimizer's state, laid out as the parameter is; a count of steps stays as it is."""
    if not isinstance(parameter, DTensor) or not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    own = value.to(parameter.device_mesh.device_type)
    return distribute_tensor(own, parameter.device_mesh, parameter.placements, src_data_rank=None)
