"""How long gradients and weights are, area by area: which part of the model learns, and which runs away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune.models.areas import bare_name
from boxtune.models.families import Family
from boxtune.training.curves import Curves
from boxtune.training.sharding import local


class GradNormCallback(TrainerCallback):
    """Logs `grad_norm/AREA` and `weight_norm/AREA` of what is trained; reads, changes nothing.

    Adapters of an area are `AREA_lora`, and all of them together `adapter`, as the group of parameters is called.

    Norms are L2, and those of gradients are before clipping, although callbacks see gradients after it only: clipping
    multiplies all by one factor, and the trainer logs the norm of the whole before it. So nothing is computed but in
    the steps that are logged, and the GPU is waited for once, when they are.

    Args:
        family: row of the model.
        curves: where the figures go; they also go to the trainer's history.
    """

    def __init__(self, family: Family, curves: Curves) -> None:
        self.family, self.curves = family, curves
        self._areas: dict[str, list[torch.nn.Parameter]] = {}
        self._pending: torch.Tensor | None = None  # [2, areas]: of gradients, of weights

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Sort what is trained into its areas."""
        self._areas = {}
        if args.deepspeed_plugin is not None:  # it holds gradients and weights elsewhere
            return
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._areas.setdefault(area_name(self.family, name), []).append(parameter)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure, where the step in hand will be logged."""
        step = state.global_step + 1
        logged = step % state.logging_steps == 0 or (step == 1 and args.logging_first_step)
        self._pending = measured(self._areas) if logged and self._areas else None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Write what was measured beside the loss of the same step."""
        if self._pending is None or "grad_norm" not in (logs or {}):
            return
        gradients, weights = self._pending.tolist()
        self._pending = None
        clipped = sum(norm**2 for norm in gradients) ** 0.5
        factor = float(logs["grad_norm"]) / clipped if clipped else 1.0
        norms = {"grad_norm": [norm * factor for norm in gradients], "weight_norm": weights}
        figures: dict[str, float] = {}
        for kind, of_areas in norms.items():
            by_area = dict(zip(self._areas, of_areas, strict=True))
            figures |= {f"{kind}/{area}": norm for area, norm in (by_area | _of_adapters(by_area)).items()}
        self.curves.add_beside(figures, state)


def area_name(family: Family, parameter_name: str) -> str:
    """`vision`, `merger`, `language`, `lm_head`; `language_lora` and the like for adapters."""
    area = family.area_of(bare_name(parameter_name))
    return f"{area}_lora" if ".lora_" in parameter_name else area


def _of_adapters(norms: Mapping[str, float]) -> dict[str, float]:
    """The parameter group `adapter`: those of all areas together."""
    adapters = [norm for area, norm in norms.items() if area.endswith("_lora")]
    return {"adapter": sum(norm**2 for norm in adapters) ** 0.5} if adapters else {}


@torch.no_grad()
def measured(areas: dict[str, list[torch.nn.Parameter]]) -> torch.Tensor:
    """L2 norms of gradients and of weights: `[2, areas]`, still on the device; of divided ones, over all processes."""
    device = next(iter(areas.values()))[0].device
    gradients, weights = [], []
    for parameters in areas.values():
        gradients.append(_norm([p.grad for p in parameters if p.grad is not None], device))
        weights.append(_norm(parameters, device))
    norms = torch.stack([torch.stack(gradients), torch.stack(weights)])
    if not any(local(parameter) is not parameter for parameters in areas.values() for parameter in parameters):
        return norms
    squares = norms.square()
    distributed.all_reduce(squares)
    return squares.sqrt()


def _norm(tensors: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    here = [local(tensor) for tensor in tensors]
    return torch.nn.utils.get_total_norm(here).to(device) if here else torch.zeros((), device=device)
