"""Which parameters are trained: each area frozen, in full, or through low-rank adapters. Checked, not assumed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from boxtune.errors import ModelError
from boxtune.models.families import Family

Training = Literal["frozen", "lora", "full"]


@dataclass(frozen=True)
class LowRank:
    """Shape of the adapters (arXiv 2106.09685)."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0


@dataclass(frozen=True)
class AreaSummary:
    """Parameters of one area."""

    area: str
    num_parameters: int
    num_trainable: int


def prepare_for_training(model: Any, family: Family, training: Mapping[str, Training], low_rank: LowRank) -> Any:
    """Freeze, open and wrap the areas of a model; returns the model, or a PeftModel around it.

    Trained weights become fp32: an update of a bf16 weight is often smaller than its rounding.

    Args:
        model: of transformers, bare.
        family: its row.
        training: area → what happens to it, for the areas `vision`, `merger` and `language` (with `lm_head`).
        low_rank: shape of the adapters where an area says `lora`.

    Raises:
        ModelError: a rule that matches nothing.
    """
    training = {"lm_head": _head_follows(training["language"]), **training}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    targets = [area for area, how in training.items() if how == "lora"]
    if targets:  # first, since PEFT freezes everything but its adapters
        model = _with_low_rank(model, family, targets, low_rank)
    for area, how in training.items():
        if how == "full":
            _open(model, family, area)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("Nothing would be trained: every area is frozen.")
    return model


def summarize(model: Any, family: Family) -> list[AreaSummary]:
    """Parameters of each area, adapters counted to the area that they sit in."""
    totals: dict[str, list[int]] = {area: [0, 0] for area in family.areas}
    for name, parameter in model.named_parameters():
        area = family.area_of(bare_name(name))
        totals[area][0] += parameter.numel()
        totals[area][1] += parameter.numel() * parameter.requires_grad
    return [AreaSummary(area, *counts) for area, counts in totals.items() if counts[0]]


def bare_name(name: str) -> str:
    """A parameter's name without what PEFT puts before and into it."""
    name = name.removeprefix("base_model.model.")
    return name.replace(".base_layer.", ".")


def _head_follows(language: Training) -> Training:
    return "full" if language == "full" else "frozen"


def _open(model: Any, family: Family, area: str) -> None:
    prefix = family.areas[area]
    matched = [parameter for name, parameter in model.named_parameters() if re.match(prefix, bare_name(name))]
    if not matched and area != "lm_head":  # with tied embeddings the head's weight belongs to the language area
        raise ModelError(f"Area '{area}' matches no parameter of this {family.model_type}: see models/families.py.")
    for parameter in matched:
        parameter.data = parameter.data.to(torch.float32)
        parameter.requires_grad_(True)


def _with_low_rank(model: Any, family: Family, areas: list[str], low_rank: LowRank) -> Any:
    from peft import LoraConfig, get_peft_model

    for area in areas:
        pattern = family.lora_targets[area]
        hits = [name for name, module in model.named_modules() if re.fullmatch(pattern, name)]
        if not hits:
            raise ModelError(f"LoRA on '{area}' matches no module of this {family.model_type}: see models/families.py.")
    peft_config = LoraConfig(
        r=low_rank.rank,
        lora_alpha=low_rank.alpha,
        lora_dropout=low_rank.dropout,
        target_modules="|".join(f"({family.lora_targets[area]})" for area in areas),
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, peft_config)
    check_low_rank(wrapped, family, areas)
    return wrapped


def check_low_rank(model: Any, family: Family, areas: list[str]) -> None:
    """Every adapter sits in one of the areas, on a linear layer.

    Raises:
        ModelError: names the first module that is elsewhere.
    """
    for name, _ in model.named_parameters():
        if ".lora_" not in name:
            continue
        area = family.area_of(bare_name(name))
        if area not in areas:
            raise ModelError(
                f"LoRA weights at '{name}' lie in the area '{area}', not in {areas}: see models/families.py."
            )
