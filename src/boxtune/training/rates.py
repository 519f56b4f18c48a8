"""The learning rate of each group at each step: its own, times the schedule, the phase, and what faults left of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from boxtune.training.clock import RunClock
from boxtune.training.groups import Groups, follow_parameters, split_by_group
from boxtune.training.phases import Phase, Phases


class Rates:
    """Gives an optimizer its rates.

    Args:
        clock: of the run.
        schedule: progress 0–1, and the number of steps where it is known → factor.
        groups: of the model; empty: all parameters have the rate that the optimizer has (sharded runs).
        highest: group → its rate before anything is multiplied.
        phases: of the run; they follow the same clock. None: there is one.
        lowered: group → factor that faults have left of its rate; read at every step.
    """

    def __init__(
        self,
        clock: RunClock,
        schedule: Callable[[float, int | None], float],
        groups: Groups = MappingProxyType({}),
        highest: Mapping[str, float] = MappingProxyType({}),
        phases: Phases | None = None,
        lowered: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.clock, self.schedule, self.groups, self.highest = clock, schedule, groups, highest
        self.phases = phases or Phases((Phase(1.0),), groups)
        self.lowered = lowered
        self.of_step: dict[str, float] = {}
        """Group → the rate of the step in hand; nothing where there are no groups."""
        self._step, self._progress = -1, 0.0

    def divide(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the optimizer's parameter groups ours."""
        if self.groups:
            split_by_group(optimizer, self.groups, self.highest)

    def follow(self, optimizer: Any) -> None:
        """Know the parameters that the optimizer has by now, and with the groups all that share them."""
        if isinstance(self.groups, dict) and self.groups:
            follow_parameters(optimizer, self.groups)

    def scheduler(self, optimizer: torch.optim.Optimizer, num_steps: int) -> LambdaLR:
        """Follows the run's clock, which counts steps or time."""

        def of(group: str | None) -> Callable[[int], float]:
            return lambda step: self._factor(group, step, num_steps)

        return LambdaLR(optimizer, [of(part.get("group")) for part in optimizer.param_groups])

    def refresh(self, scheduler: LambdaLR) -> None:
        """Give the step in hand the rates that faults have left, where one was heard of since it began."""
        parts = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for part, highest, factor in parts:
            part["lr"] = highest * factor(scheduler.last_epoch)

    def note(self, optimizer: Any) -> None:
        """Before the optimizer's step: its rates; behind it they are those of the next."""
        self.of_step = {part["group"]: float(part["lr"]) for part in optimizer.param_groups if "group" in part}

    def _factor(self, group: str | None, step: int, num_steps: int) -> float:
        if step != self._step:  # the groups of a step are asked one after the other, and time goes on in between
            self._step, self._progress = step, self.clock.progress(step, num_steps)
            self.phases.advance(self._progress)
        factor = self.schedule(self._progress, num_steps if self.clock.budget_seconds is None else None)
        return factor if group is None else factor * self.phases.factor(group) * self.lowered.get(group, 1.0)
