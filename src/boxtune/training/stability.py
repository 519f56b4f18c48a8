"""A run that goes on where a loss, a gradient or a weight is not finite.

The optimizer leaves such a step out, so the weights stay those of the step before. Where they are no good
either (a number in them or in the optimizer's state is not finite, or the next step is no better), weights and
optimizer return to the last good snapshot. The rate of the group that the fault was in is lowered, and rises again with
good steps, as a loss scale does (Micikevicius et al. 2018, arXiv 1710.03740; `torch.amp.GradScaler`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import distributed

from boxtune.config.schema import StabilityConfig
from boxtune.errors import ConfigError
from boxtune.models.sending import on_its_way
from boxtune.training.groups import Groups
from boxtune.training.sharding import local
from boxtune.training.skipped_steps import agreed, can_leave_out, everywhere, leave_out
from boxtune.training.snapshot import Snapshot

FAULTS_FILE: Final = "faults.jsonl"
_GOOD_STEPS_APART = 2  # an explosion shows a step after it, so one good step says nothing
_IDS_SAID = 4


@dataclass(frozen=True)
class Fault:
    """A step that was not taken, or whose result was not kept.

    Attributes:
        step: its number, from 1.
        kind: what was not finite first: weights (or the optimizer's state), the loss, or only gradients.
        groups: that the fault was in; all that learn where only the loss tells, and its text part is not finite either.
        sample_ids: of the batches whose loss was not finite, over all processes; of the whole step where none was.
        returned_to: step of the snapshot that weights and optimizer were put back to; None: they stayed.
        rate_factors: what faults have left of the rates of those groups.
        num_in_row: how many it makes without good steps in between.
    """

    step: int
    kind: Literal["weights", "loss", "gradient"]
    groups: tuple[str, ...]
    sample_ids: tuple[str, ...]
    returned_to: int | None
    rate_factors: dict[str, float]
    num_in_row: int

    def __str__(self) -> str:
        """One line for the user."""
        names = {"weights": "the weights of", "loss": "the loss of", "gradient": "the gradient of"}
        where = ", ".join(self.groups)
        ids = ", ".join(self.sample_ids[:_IDS_SAID]) + (" …" if len(self.sample_ids) > _IDS_SAID else "")
        done = "step dropped" if self.returned_to is None else f"back to the weights of step {self.returned_to}"
        rates = ", ".join(f"{group} × {factor:g}" for group, factor in self.rate_factors.items())
        what = "the loss" if self.kind == "loss" else f"{names[self.kind]} {where}"
        return f"Step {self.step}: {what} not finite (images {ids}); {done}; rates: {rates}"


@dataclass(frozen=True)
class Judged:
    """Of a step, before anybody has looked.

    Attributes:
        step: its number, from 1.
        flags: `[1 + groups]` on the CPU: is the loss not finite, and the gradients of each group?
        is_there: an event of the device; None: they are.
        batches: of each, whether its loss was not finite, and its samples.
        text_is_bad: of each batch, whether the text's part of its loss was not finite.
    """

    step: int
    flags: torch.Tensor
    is_there: Any
    batches: list[tuple[torch.Tensor, Sequence[str]]]
    text_is_bad: list[torch.Tensor]


@dataclass
class StabilityState:
    """What a run has learned of its faults, and keeps in its checkpoints.

    Attributes:
        lowered: group → what faults have left of its rate.
        num_faults: so far.
        num_in_row: without good steps in between.
        num_good_in_row: good steps since the last fault.
        num_good_since_change: good steps since a rate was lowered or raised.
    """

    lowered: dict[str, float]
    num_faults: int = 0
    num_in_row: int = 0
    num_good_in_row: int = 0
    num_good_since_change: int = 0


class Stability:
    """Judges each step, and mends the model where one was bad. All processes come to the same judgement.

    Each step costs a norm of each group's gradients, and one wait for the device, or none: see `later`.

    Args:
        settings: limits and factors.
        groups: trained parameters; empty where gradients are not ours to see (DeepSpeed): a fault then ends the run.
        snapshot_steps: between two snapshots; None: there are none.
        output_dir: where faults are written down.
        say: is told of each.
        resting: tells the groups that are frozen for now.
        later: wait in `settle`, where the optimizer can leave a step out by itself and all went well so far.
    """

    def __init__(
        self,
        settings: StabilityConfig,
        groups: Groups,
        snapshot_steps: int | None,
        output_dir: Path,
        say: Callable[[str], None],
        resting: Callable[[], frozenset[str]] = frozenset,
        *,
        later: bool = False,
    ) -> None:
        self.later = later
        self.settings, self.groups, self.snapshot_steps = settings, groups, snapshot_steps
        self.output_dir, self.say, self.resting = output_dir, say, resting
        self.snapshot = None if snapshot_steps is None or not groups else Snapshot(self._trained())
        self.state = StabilityState(dict.fromkeys(groups, 1.0))
        self.last: Fault | None = None
        self.stopped = False
        self._losses: list[tuple[torch.Tensor, Sequence[str]]] = []  # of the step in hand: not finite?, its samples
        self._text_is_bad: list[torch.Tensor] = []
        self._usual_loss: torch.Tensor | None = None
        self._judged: Judged | None = None
        self._ids: tuple[str, ...] = ()  # of the last step, here

    @property
    def lowered(self) -> dict[str, float]:
        """Group → what faults have left of its rate; one object for the whole run."""
        return self.state.lowered

    @property
    def num_faults(self) -> int:
        """So far."""
        return self.state.num_faults

    def take_up(self, saved: Mapping[str, Any]) -> None:
        """Go on with what a checkpoint keeps; a row of faults that ended its run is over.

        Args:
            saved: fields of `StabilityState`; an earlier boxtune kept some.
        """
        known = dataclasses.asdict(self.state) | {name: saved[name] for name in vars(self.state) if name in saved}
        self.lowered.update(known.pop("lowered"))
        self.state = StabilityState(self.lowered, **known)
        if self.state.num_in_row >= self.settings.stop_after:
            self.state.num_in_row = self.state.num_good_in_row = 0

    # ---- the step in hand --------------------------------------------------------------------------------------------

    def note(self, loss: torch.Tensor, sample_ids: Sequence[str]) -> torch.Tensor:
        """After the backward pass of each batch; returns what its loss counts as in the mean that is logged.

        That is the last finite one, where it is not: one bad batch would hide all others of the interval.

        Args:
            loss: scalar, this batch's share of the step's.
            sample_ids: of the batch.
        """
        finite = loss.detach().isfinite()
        self._losses.append((~finite, sample_ids))
        usual = torch.zeros_like(loss) if self._usual_loss is None else self._usual_loss
        self._usual_loss = torch.where(finite, loss, usual)
        return self._usual_loss

    def note_text(self, text_loss: torch.Tensor) -> None:
        """Of each batch, the part of its loss that is not the head's: where that is finite, the head is to blame."""
        self._text_is_bad.append(~text_loss.detach().isfinite())

    def forget_step(self) -> None:
        """What was noted of the step in hand; it is done again, or never."""
        self._losses, self._text_is_bad = [], []

    def judge(self, optimizer: Any, step: int) -> bool:
        """After the last batch of a step, before its gradients are clipped: whether the step may be taken, or True
        where that is not known yet. Where it may not, the optimizer does nothing.

        Args:
            optimizer: its state is put back where that must be.
            step: its number, from 1.

        Raises:
            ConfigError: a fault that cannot be mended.
        """
        self.settle(optimizer)
        if self.snapshot is not None:
            self.snapshot.before_changes()
        bad_loss = torch.stack([flag for flag, _ in self._losses]).any()
        flags = [bad_loss, *(~_norm(group, bad_loss.device).isfinite() for group in self._gradients())]
        found, batches, text_is_bad = everywhere(torch.stack(flags)), self._losses, self._text_is_bad
        self.forget_step()
        self._ids = tuple(sample_id for _, ids in batches for sample_id in ids)
        if self.later and self.state.num_in_row == 0 and can_leave_out(optimizer):
            leave_out(optimizer, found.amax())
            self._judged = Judged(step, *on_its_way(found), batches, text_is_bad)
            return True
        stands = self._look(Judged(step, found.cpu(), None, batches, text_is_bad), optimizer)
        if not stands:
            for members in self.groups.values():
                for parameter in members:
                    parameter.grad = None
        return stands

    def settle(self, optimizer: Any) -> None:
        """Hear how the last step was judged, and mend what was wrong; nothing where that is known.

        Raises:
            ConfigError: a fault that cannot be mended.
        """
        judged, self._judged = self._judged, None
        if judged is not None:
            leave_out(optimizer, None)
            self._look(judged, optimizer)

    def _look(self, judged: Judged, optimizer: Any) -> bool:
        if judged.is_there is not None:
            judged.is_there.synchronize()
        loss_is_bad, *bad = (flag > 0 for flag in judged.flags.tolist())
        if not loss_is_bad and not any(bad):
            self._note_good()
            return True
        suspects = tuple(sample_id for flag, ids in judged.batches if bool(flag) for sample_id in ids)
        if loss_is_bad:
            blamed = judged.text_is_bad or [flag for flag, _ in judged.batches]
            groups = self._learning(torch.stack(blamed).any())
        else:
            groups = [group for group, is_bad in zip(self.groups, bad, strict=True) if is_bad]
        self._mend(optimizer, judged.step, "loss" if loss_is_bad else "gradient", groups, suspects)
        return False

    def verify(self, optimizer: Any, step: int) -> None:
        """Before weights are saved, shown or copied: put them back where they are not finite.

        Raises:
            ConfigError: they are not, and there is nothing to put back.
        """
        self.settle(optimizer)
        damaged = self._damaged(optimizer)
        if damaged:
            self._mend(optimizer, step, "weights", damaged, (), damaged)

    def take_snapshot(self, optimizer: Any, step: int) -> None:
        """Of weights that `verify` has seen."""
        if self.snapshot is not None and self.state.num_in_row == 0:
            self.snapshot.parameters = self._trained()  # FSDP2 has put others in their place
            self.snapshot.take(optimizer, step)

    def end(self, optimizer: Any) -> None:
        """The last step was taken: a run in the middle of a row of faults has come to nothing that can be relied on."""
        self.settle(optimizer)
        if self.state.num_in_row > 1 and not self.stopped:
            self.stopped = True
            if self.snapshot is not None and self.snapshot.step is not None:
                self.snapshot.restore(optimizer)

    def release(self) -> None:
        """After the run: a snapshot takes three times as much memory as what is trained."""
        if self.snapshot is not None:
            self.snapshot.release()

    def raise_if_stopped(self) -> None:
        """After the run.

        Raises:
            ConfigError: it was ended by faults; says by which, and what to try.
        """
        if self.stopped:
            raise ConfigError(self._advice("the last good weights are in the last checkpoint"))

    # ---- what is done about a fault ----------------------------------------------------------------------------------

    def _mend(
        self,
        optimizer: Any,
        step: int,
        kind: Literal["weights", "loss", "gradient"],
        groups: Sequence[str],
        suspects: Sequence[str],
        damaged: Sequence[str] | None = None,
    ) -> None:
        """Put the weights back where that must be, lower rates, write it down."""
        state = self.state
        state.num_in_row, state.num_faults = state.num_in_row + 1, state.num_faults + 1
        state.num_good_in_row = state.num_good_since_change = 0
        damaged = self._damaged(optimizer) if damaged is None else damaged
        if damaged:
            kind, groups = "weights", damaged
        returned_to = None
        if self.snapshot is not None and self.snapshot.step is not None and (damaged or state.num_in_row > 1):
            self.snapshot.restore(optimizer)
            returned_to = self.snapshot.step
        for group in groups:
            self.lowered[group] *= self.settings.rate_factor
        factors = {group: self.lowered[group] for group in groups}
        ids = _gathered(tuple(suspects), self._ids)
        self.last = Fault(step, kind, tuple(groups), ids, returned_to, factors, state.num_in_row)
        self._write_down(self.last)
        self.say(str(self.last))
        if not self.groups or (damaged and returned_to is None):
            raise ConfigError(self._advice("nothing is left to go back to in this run"))
        self.stopped = state.num_in_row >= self.settings.stop_after

    def _note_good(self) -> None:
        state = self.state
        state.num_good_in_row += 1
        state.num_good_since_change += 1
        if state.num_good_in_row >= _GOOD_STEPS_APART:
            state.num_in_row = 0
        patience = self.settings.recover_steps
        if patience is not None and state.num_good_since_change >= patience:
            state.num_good_since_change = 0
            self.lowered.update({g: min(1.0, f / self.settings.rate_factor) for g, f in self.lowered.items()})

    def _learning(self, text_is_bad: torch.Tensor) -> list[str]:
        """Groups that a bad loss may come from: the head alone where the text's part is finite, else all that learn."""
        learning = [group for group in self.groups if group not in self.resting()]
        (is_bad,) = agreed(text_is_bad[None])
        return ["detection_head"] if not is_bad and "detection_head" in learning else learning

    def _trained(self) -> tuple[torch.nn.Parameter, ...]:
        return tuple(parameter for members in self.groups.values() for parameter in members)

    def _gradients(self) -> list[list[torch.Tensor]]:
        return [[p.grad for p in members if p.grad is not None] for members in self.groups.values()]

    def _damaged(self, optimizer: Any) -> tuple[str, ...]:
        """Groups with a number that is not finite in their weights, or in the optimizer's state of them."""
        if not self.groups:
            return ()
        flags = []
        for members in self.groups.values():
            numbers = [p.detach() for p in members]
            numbers += [v for p in members for v in optimizer.state.get(p, {}).values() if _is_number(v)]
            # the largest, which cannot overflow as a sum of squares does
            flags.append(~_norm(numbers, numbers[0].device, float("inf")).isfinite())
        return tuple(group for group, bad in zip(self.groups, agreed(torch.stack(flags)), strict=True) if bad)

    def _write_down(self, fault: Fault) -> None:
        if not distributed.is_initialized() or distributed.get_rank() == 0:
            with (self.output_dir / FAULTS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(fault), ensure_ascii=False) + "\n")

    def _advice(self, rest: str) -> str:
        fault = self.last
        assert fault is not None
        return (
            f"Ended at step {fault.step}: {fault.num_in_row} faults in a row, the last in the {fault.kind}; {rest}. "
            f"{self.output_dir / FAULTS_FILE} lists all with their images: look at these, or lower "
            "trainer.learning_rate or trainer.max_grad_norm, and start again in another --output-dir."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _norm(tensors: Sequence[torch.Tensor], device: torch.device, kind: float = 2.0) -> torch.Tensor:
    here = [part for tensor in tensors if (part := local(tensor)).numel()]  # of divided ones, what lies here
    if not here:
        return torch.zeros((), device=device)
    return torch.nn.utils.get_total_norm(here, norm_type=kind).to(device)


def _gathered(suspects: tuple[str, ...], of_step: tuple[str, ...]) -> tuple[str, ...]:
    """The suspects of all processes; all samples of the step where there are none."""
    everywhere: list[Any] = [(suspects, of_step)]
    if distributed.is_initialized() and distributed.get_world_size() > 1:
        everywhere = [None] * distributed.get_world_size()
        distributed.all_gather_object(everywhere, (suspects, of_step))
    found = tuple(sample_id for some, _ in everywhere for sample_id in some)
    return found or tuple(sample_id for _, step in everywhere for sample_id in step)
