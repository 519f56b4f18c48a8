"""Parts of a run in which groups learn at other rates, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from boxtune.config.schema import Config
from boxtune.training.groups import Groups

_ROUNDING = 1e-9  # 3 of 12 steps may come to a little less than 0.25


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        until: share of the run at its end.
        factors: group → what its learning rate is multiplied by; 0: it is frozen. Those not named have 1.
    """

    until: float
    factors: Mapping[str, float] = field(default_factory=dict)


def phases_of(config: Config) -> tuple[Phase, ...]:
    """The phases of a configuration that was checked; one without an end in between where it names none."""
    trainer = config.trainer
    made = []
    for phase in trainer.phases:
        if phase.until is not None:
            end = phase.until
        else:
            assert phase.until_epoch is not None
            assert trainer.num_train_epochs != "auto"
            end = phase.until_epoch / trainer.num_train_epochs
        made.append(Phase(end, phase.factors.model_dump()))
    return tuple(made) or (Phase(1.0),)


class Phases:
    """Where in its phases a run is, and the parameters that rest meanwhile.

    A group that rests has no gradient at a step, so the optimizer passes it over: neither weight decay nor momentum
    moves it, and what the optimizer knows of it stays. In one process nothing is computed for it either. Several
    processes agree before the first step on which gradients they add up (DistributedDataParallel), so there its
    gradients are computed, and dropped.

    Args:
        phases: in order; the last ends at 1.
        groups: of the model.
        one_process: whether the run is in one.
    """

    def __init__(self, phases: Sequence[Phase], groups: Groups, *, one_process: bool = True) -> None:
        self.phases, self.groups, self.one_process = tuple(phases), groups, one_process
        self.index = 0
        self._resting_before: frozenset[str] = frozenset()

    @property
    def resting(self) -> frozenset[str]:
        """Groups that are frozen for now."""
        factors = self.phases[self.index].factors
        return frozenset(group for group in self.groups if factors.get(group, 1.0) == 0)

    def advance(self, progress: float) -> None:
        """Go on to the phase of that share of the run; never back."""
        while self.index + 1 < len(self.phases) and progress >= self.phases[self.index].until - _ROUNDING:
            self.index += 1

    def factor(self, group: str) -> float:
        """Of the group's learning rate."""
        return self.phases[self.index].factors.get(group, 1.0)

    def apply(self) -> bool:
        """Before a step: let the groups of the phase rest, and wake the others; says whether that changed anything."""
        changed, self._resting_before = self.resting != self._resting_before, self.resting
        if changed and self.one_process:
            for group, parameters in self.groups.items():
                for parameter in parameters:
                    parameter.requires_grad_(group not in self.resting)
        return changed

    def drop_gradients(self) -> None:
        """After the backward pass of a step, of the groups that rest."""
        for group in self.resting:
            for parameter in self.groups[group]:
                parameter.grad = None

    def release(self) -> None:
        """After the run: the model is as it was before the first phase."""
        for parameters in self.groups.values():
            for parameter in parameters:
                parameter.requires_grad_(True)
        self._resting_before = frozenset()

    def is_resting(self, parameter: object) -> bool:
        """Whether a parameter's group is frozen for now."""
        return any(parameter is member for group in self.resting for member in self.groups[group])

    def __str__(self) -> str:
        """`1 of 3, until 25 % of the run: language rests, vision × 0.1`."""
        phase = self.phases[self.index]
        said = [
            f"{group} rests" if phase.factors.get(group, 1.0) == 0 else f"{group} × {phase.factors[group]:g}"
            for group in self.groups
            if phase.factors.get(group, 1.0) != 1
        ]
        where = f"{self.index + 1} of {len(self.phases)}, until {phase.until:.0%} of the run"
        return f"{where}: {', '.join(said) or 'all groups at their rates'}"
