"""Which trained parameter belongs to which group; each group has a learning rate of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from boxtune.config.groups import GROUPS
from boxtune.config.schema import Config
from boxtune.errors import GroupError, ModelError
from boxtune.models.areas import bare_name
from boxtune.models.families import Family

Groups = Mapping[str, tuple[torch.nn.Parameter, ...]]
"""Group → its trained parameters; groups without any are left out."""

_NAMES_SHOWN = 20


def group_of(family: Family, parameter_name: str) -> str:
    """The group of a parameter, under the name that the trained model has for it.

    Raises:
        ModelError: it lies in no area of the families table.
    """
    if ".lora_" in parameter_name:
        return "adapter"
    area = family.area_of(bare_name(parameter_name))
    return "language" if area == "lm_head" else area


def parameter_groups(model: Any, family: Family) -> dict[str, tuple[torch.nn.Parameter, ...]]:
    """Every trained parameter, in exactly one group; in the order of `GROUPS`.

    Args:
        model: as it will be trained, a PeftModel or bare.
        family: its row.

    Raises:
        GroupError: also a KeyError; lists the parameters that are in no group.
    """
    members: dict[str, list[torch.nn.Parameter]] = {group: [] for group in GROUPS}
    rest = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        try:
            members[group_of(family, name)].append(parameter)
        except ModelError:
            rest.append(name)
    if rest:
        more = f" and {len(rest) - _NAMES_SHOWN} more" if len(rest) > _NAMES_SHOWN else ""
        raise GroupError(
            f"{len(rest)} trained parameters belong to no group of {family.model_type}: "
            f"{', '.join(rest[:_NAMES_SHOWN])}{more}. Add an area for them to models/families.py, or freeze them."
        )
    return {group: tuple(parameters) for group, parameters in members.items() if parameters}


def group_rates(config: Config, groups: Groups, scale: float = 1.0) -> dict[str, float]:
    """Group → its highest learning rate.

    Args:
        config: fitted.
        groups: those that are trained.
        scale: see `batch_scale`.
    """
    given = config.trainer.rates.model_dump()
    usual = float(config.trainer.learning_rate)
    return {group: scale * (usual if given[group] is None else given[group]) for group in groups}


def batch_scale(config: Config, images_per_step: float) -> float:
    """What rates that are meant for `trainer.rate_for_batch` images a step are multiplied by.

    Linear is right for SGD (Goyal et al. 2017, arXiv 1706.02677), the square root for Adam (Malladi et al. 2022,
    arXiv 2205.10343).

    Args:
        config: of the run.
        images_per_step: that really come, on average, over all batches and processes.
    """
    meant_for = config.trainer.rate_for_batch
    if meant_for is None:
        return 1.0
    ratio = images_per_step / meant_for
    return float(ratio if config.trainer.rate_scaling == "linear" else ratio**0.5)


def split_by_group(optimizer: torch.optim.Optimizer, groups: Groups, rates: Mapping[str, float]) -> None:
    """Divide an optimizer's parameter groups further, so that each holds one of ours, named by its key `group`.

    Whatever else they say, such as the weight decay that norms and biases are free of, stays as it is.

    Args:
        optimizer: that has not taken a step; one that is divided already is left alone.
        groups: every parameter of it is in one of them.
        rates: of each.
    """
    if any("group" in part for part in optimizer.param_groups):
        return
    group_by_id = {id(parameter): group for group, members in groups.items() for parameter in members}
    divided = []
    for part in optimizer.param_groups:
        for group in groups:
            members = [parameter for parameter in part["params"] if group_by_id[id(parameter)] == group]
            if members:
                divided.append({**part, "params": members, "lr": rates[group], "group": group})
    optimizer.param_groups[:] = divided


def follow_parameters(optimizer: Any, groups: dict[str, tuple[torch.nn.Parameter, ...]]) -> None:
    """Have groups name the parameters that an optimizer has by now: FSDP2 puts others in the place of a model's own.

    Args:
        optimizer: divided by `split_by_group`.
        groups: of the run; changed in place, as those who share it must see it.
    """
    for group in groups:
        parts = [part["params"] for part in optimizer.param_groups if part["group"] == group]
        groups[group] = tuple(parameter for members in parts for parameter in members)


def describe_rates(rates: Mapping[str, float]) -> str:
    """`vision 1e-05, language 0.0001`."""
    return ", ".join(f"{group} {rate:.3g}" for group, rate in rates.items())
