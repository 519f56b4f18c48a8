"""What steers a run between its steps, made from its configuration: rates, phases, and what is done about faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from boxtune import processes
from boxtune.config.engines import engine_of
from boxtune.config.schema import Config
from boxtune.inspection.machine import describe_cpu
from boxtune.models.families import Family
from boxtune.training.clock import RunClock, rate_factor
from boxtune.training.groups import Groups, batch_scale, describe_rates, group_rates, parameter_groups
from boxtune.training.phases import Phases, phases_of
from boxtune.training.rates import Rates
from boxtune.training.snapshot import num_snapshot_bytes
from boxtune.training.stability import Stability

_SNAPSHOT_STEPS = 50
_MOST_OF_MEMORY = 0.25


def controls(
    config: Config, model: Any, family: Family, clock: RunClock, images_per_step: float, say: Callable[[str], None]
) -> tuple[Rates, Stability]:
    """The rates of a run, which know its phases, and its judge.

    Args:
        config: fitted.
        model: as it will be trained.
        family: its row.
        clock: of the run.
        images_per_step: that really come, on average, over all processes.
        say: is told what came of it, where it is not the usual.

    Raises:
        GroupError: trained parameters that are in no group.
    """
    settings = config.trainer
    groups = parameter_groups(model, family)
    judged = {} if engine_of(config) == "deepspeed" else groups  # its gradients are its own
    scale = batch_scale(config, images_per_step)
    highest = group_rates(config, groups, scale)
    phases = Phases(phases_of(config), groups, one_process=processes.count() == 1)
    stability = Stability(
        settings.stability,
        judged,
        _snapshot_steps(config, judged, say),
        Path(config.output_dir),
        say,
        resting=lambda: phases.resting,
        later=model.device.type == "cuda" and engine_of(config) == "ddp",
    )
    if scale != 1:
        say(
            f"Rates are meant for {settings.rate_for_batch} images a step, and {images_per_step:.1f} come on average: "
            f"× {scale:.3g} ({settings.rate_scaling})"
        )
    if scale != 1 or len(set(highest.values())) > 1:
        say(f"Rates by group: {describe_rates(highest)}")
    schedule = rate_factor(settings.schedule, settings.warmup_fraction)
    return Rates(clock, schedule, groups, highest, phases, stability.lowered), stability


def _snapshot_steps(config: Config, groups: Groups, say: Callable[[str], None]) -> int | None:
    """Between two snapshots; None: there are none."""
    asked = config.trainer.stability.snapshot_steps
    if asked != "auto":
        return asked
    copies = 1 if engine_of(config) == "fsdp" else processes.count()
    taken = copies * num_snapshot_bytes([p for members in groups.values() for p in members])
    there = describe_cpu().total_bytes  # not what is free: all processes must come to the same
    if taken <= _MOST_OF_MEMORY * there:
        return _SNAPSHOT_STEPS
    say(
        f"No snapshots: they would take {taken / 2**30:.0f} of {there / 2**30:.0f} GiB of memory. A step that is not "
        "finite is dropped all the same; trainer.stability.snapshot_steps=50 takes them nevertheless."
    )
    return None
