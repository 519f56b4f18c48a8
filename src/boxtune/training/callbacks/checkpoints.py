"""When checkpoints are written, and what goes beside the weights: contract, configuration, versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from boxtune import processes
from boxtune.models.contract import FILE_NAME as CONTRACT_FILE
from boxtune.models.contract import RUN_FILE, Contract
from boxtune.training.aside import discard
from boxtune.training.clock import RunClock
from boxtune.whole_files import write_text

CONFIG_FILE = "config.yaml"
_SHARE_BETWEEN = 0.1  # of the run
_SECONDS_BETWEEN = 30.0  # at least


class CheckpointCallback(TrainerCallback):
    """Saves ten times in a run (where `trainer.save_steps` says nothing else), completes checkpoints, removes old ones.

    A folder without the contract is no whole checkpoint, and a resumed run passes it over.

    Args:
        clock: of the run.
        contract: what the model must be asked with.
        config_yaml: the resolved configuration.
        record: versions, data fingerprint and the like.
        timed: whether this callback decides when to save.
        num_kept: how many checkpoints stay. Older ones go only once the newest is whole, so that a disk that fills up
            in between takes none with it (`save_total_limit` of transformers deletes before).
        kept_step: tells the step whose checkpoint stays too, or None.
    """

    def __init__(
        self,
        clock: RunClock,
        contract: Contract,
        config_yaml: str,
        record: dict[str, Any],
        *,
        timed: bool,
        num_kept: int = 2,
        kept_step: Callable[[], int | None] | None = None,
    ) -> None:
        self.clock, self.contract, self.config_yaml, self.record = clock, contract, config_yaml, record
        self.timed, self.num_kept, self.kept_step = timed, num_kept, kept_step
        self.saved_progress = self.saved_seconds = 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint when it is time, and at the end."""
        if not self.timed:
            return
        progress = self.clock.progress(state.global_step, state.max_steps)
        due = progress - self.saved_progress >= _SHARE_BETWEEN
        if (due and self.clock.seconds - self.saved_seconds >= _SECONDS_BETWEEN) or control.should_training_stop:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remove checkpoints that are older than those which stay; the one that was just saved stands already."""
        self.saved_progress = self.clock.progress(state.global_step, state.max_steps)
        self.saved_seconds = self.clock.seconds
        if state.is_world_process_zero and args.output_dir is not None:
            output_dir = Path(args.output_dir)
            kept = None if self.kept_step is None else self.kept_step()
            for folder in checkpoints(output_dir)[: -self.num_kept]:
                if kept is None or folder != checkpoint_folder(output_dir, kept):
                    discard(folder)

    def complete(self, folder: Path) -> None:
        """Write configuration, record and contract into a folder of weights."""
        write_run_files(folder, self.config_yaml, self.record)
        self.contract.save(folder)


def write_run_files(folder: Path, config_yaml: str, record: dict[str, Any]) -> None:
    """What can start the run again: `config.yaml` and `run.json`."""
    if not processes.is_first():
        return
    write_text(folder / CONFIG_FILE, config_yaml)
    write_text(folder / RUN_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def checkpoint_folder(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies, if there is one."""
    return output_dir / f"checkpoint-{step}"


def checkpoints(output_dir: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    whole = [
        folder
        for folder in output_dir.glob("checkpoint-*")
        if (folder / CONTRACT_FILE).is_file() and folder.name.removeprefix("checkpoint-").isdigit()
    ]
    return sorted(whole, key=lambda folder: int(folder.name.removeprefix("checkpoint-")))


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    return next(reversed(checkpoints(output_dir)), None)
