"""Which parameters are trained: each area frozen, in full, or through low-rank adapters. Checked, not assumed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from boxtune.errors import ModelError
from boxtune.models.bare import bare_model
from boxtune.models.detection_head.attached import attach
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.families import Family
from boxtune.models.quantize import dtype_name, is_4bit, num_bytes, num_elements

Training = Literal["frozen", "lora", "full"]


@dataclass(frozen=True)
class LowRank:
    """Shape of the adapters (arXiv 2106.09685).

    Attributes:
        rank, alpha, dropout: width of the update, its scale alpha / rank, share of inputs left out.
        use_dora: also train the length of each output's weights (arXiv 2402.09353).
        use_rslora: scale by alpha / √rank (arXiv 2312.03732).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    use_dora: bool = False
    use_rslora: bool = False


@dataclass(frozen=True)
class AreaSummary:
    """Parameters of one area, adapters in it included.

    Attributes:
        area: its name in the families table.
        num_parameters, num_trainable: packed 4-bit ones counted one by one.
        num_tensors, num_trainable_tensors: of them.
        num_bytes: of the weights as they are held; gradients and optimizer come on top.
        dtypes: `bfloat16`, `float32`, `nf4`; sorted.
        num_low_rank: parameters of the adapters.
    """

    area: str
    num_parameters: int = 0
    num_trainable: int = 0
    num_tensors: int = 0
    num_trainable_tensors: int = 0
    num_bytes: int = 0
    dtypes: tuple[str, ...] = ()
    num_low_rank: int = 0

    @property
    def training(self) -> str:
        """`frozen`, `lora`, `full`, or `mixed` where it is none of them."""
        if self.num_trainable == 0:
            return "frozen"
        if self.num_trainable == self.num_low_rank:
            return "lora"
        return "full" if self.num_trainable == self.num_parameters else "mixed"


def prepare_for_training(
    model: Any,
    family: Family,
    training: Mapping[str, Training],
    low_rank: LowRank,
    head: DetectionHead | None = None,
) -> Any:
    """Freeze, open and wrap the areas of a model; returns the model, or a PeftModel around it.

    Trained weights become fp32: an update of a bf16 weight is often smaller than its rounding.

    Args:
        model: of transformers, bare.
        family: its row.
        training: area → what happens to it, for the areas `vision`, `merger` and `language` (with `lm_head`).
        low_rank: shape of the adapters where an area says `lora`.
        head: becomes a part of what is returned, and is trained in full; None: there is none.

    Raises:
        ModelError: a rule that matches nothing; 4-bit weights that should be trained in full.
    """
    training = with_head(training)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    targets = [area for area, how in training.items() if how == "lora"]
    if targets:  # first, since PEFT freezes everything but its adapters
        model = _with_low_rank(model, family, targets, low_rank)
    for area, how in training.items():
        if how == "full":
            _open(model, family, area)
    if head is not None:
        attach(model, head.requires_grad_(True))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("Nothing would be trained: every area is frozen.")
    return model


def with_head(training: Mapping[str, Training]) -> dict[str, Training]:
    """The same for all areas: the head is trained in full with the language model, and frozen otherwise."""
    return {"lm_head": "full" if training["language"] == "full" else "frozen", **training}


def recompute_activations(model: Any) -> None:
    """Gradient checkpointing: blocks keep their inputs only and run again in the backward pass.

    Enabled here and not by the Trainer: transformers 5.23 then makes all embeddings' outputs ask for gradients, the
    patch embedding's too, and a frozen vision tower would keep its activations and run a backward pass for nothing.
    Only the reentrant kind needs that.

    Args:
        model: of transformers, or a PeftModel around it.
    """
    bare = bare_model(model)
    bare.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    bare.disable_input_require_grads()


def summarize(model: Any, family: Family) -> list[AreaSummary]:
    """Parameters of each area that has some, adapters counted to the area that they sit in."""
    members: dict[str, list[tuple[str, Any]]] = {area: [] for area in family.areas}
    for name, parameter in model.named_parameters():
        members[family.area_of(bare_name(name))].append((name, parameter))
    return [_summary(area, parameters) for area, parameters in members.items() if parameters]


def num_parameters(model: Any) -> int:
    """How many numbers a model has, packed ones counted one by one."""
    return sum(num_elements(parameter) for parameter in model.parameters())


def bare_name(name: str) -> str:
    """A parameter's name without what PEFT puts before and into it."""
    name = name.removeprefix("base_model.model.")
    return name.replace(".base_layer.", ".")


def check_low_rank(model: Any, family: Family, areas: Sequence[str]) -> None:
    """Every adapter sits in one of the areas.

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


def _summary(area: str, parameters: Sequence[tuple[str, Any]]) -> AreaSummary:
    trained = [parameter for _, parameter in parameters if parameter.requires_grad]
    return AreaSummary(
        area,
        num_parameters=sum(num_elements(parameter) for _, parameter in parameters),
        num_trainable=sum(num_elements(parameter) for parameter in trained),
        num_tensors=len(parameters),
        num_trainable_tensors=len(trained),
        num_bytes=sum(num_bytes(parameter) for _, parameter in parameters),
        dtypes=tuple(sorted({dtype_name(parameter) for _, parameter in parameters})),
        num_low_rank=sum(num_elements(parameter) for name, parameter in parameters if ".lora_" in name),
    )


def _open(model: Any, family: Family, area: str) -> None:
    prefix = family.areas[area]
    matched = [(name, p) for name, p in model.named_parameters() if re.match(prefix, bare_name(name))]
    if not matched and area != "lm_head":  # with tied embeddings the head's weight belongs to the language area
        raise ModelError(f"Area '{area}' matches no parameter of this {family.model_type}: see models/families.py.")
    for name, parameter in matched:
        if is_4bit(parameter):
            raise ModelError(f"'{name}' holds 4-bit weights, which cannot be trained in full: use adapter.{area}=lora.")
        parameter.data = parameter.data.to(torch.float32)
        parameter.requires_grad_(True)


def _with_low_rank(model: Any, family: Family, areas: list[str], low_rank: LowRank) -> Any:
    from peft import LoraConfig, get_peft_model

    from boxtune.models.joined_adapters import make_joinable

    targets: set[str] = set()
    for area in areas:
        pattern = family.lora_targets[area]
        hits = [name for name, module in model.named_modules() if re.fullmatch(pattern, name)]
        if not hits:
            raise ModelError(f"LoRA on '{area}' matches no module of this {family.model_type}: see models/families.py.")
        targets.update(hits)
    peft_config = LoraConfig(
        r=low_rank.rank,
        lora_alpha=low_rank.alpha,
        lora_dropout=low_rank.dropout,
        use_dora=low_rank.use_dora,
        use_rslora=low_rank.use_rslora,
        target_modules="|".join(f"({family.lora_targets[area]})" for area in areas),
        task_type="CAUSAL_LM",
    )
    make_joinable(peft_config)
    wrapped = get_peft_model(model, peft_config)
    check_low_rank(wrapped, family, areas)
    _check_all_wrapped(wrapped, targets)
    return wrapped


def _check_all_wrapped(model: Any, targets: set[str]) -> None:
    wrapped = {bare_name(name.split(".lora_A.")[0]) for name, _ in model.named_parameters() if ".lora_A." in name}
    if wrapped != targets:
        odd = min(wrapped ^ targets)
        raise ModelError(
            f"PEFT gave LoRA weights to {len(wrapped)} modules, not to the {len(targets)} that the families table "
            f"names; '{odd}' is one of the differences: see models/families.py."
        )
