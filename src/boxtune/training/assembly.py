"""The trainer of a run with everything that looks on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from boxtune.collators.batch import Collator
from boxtune.config.load import to_yaml
from boxtune.config.schema import Config
from boxtune.models.contract import Contract
from boxtune.models.load import LoadedModel
from boxtune.training.arguments import training_arguments
from boxtune.training.callbacks.audit import AuditCallback
from boxtune.training.callbacks.best import BestCallback
from boxtune.training.callbacks.checkpoints import CheckpointCallback
from boxtune.training.callbacks.divergence import DivergenceCallback
from boxtune.training.callbacks.grad_norm import GradNormCallback
from boxtune.training.callbacks.interrupt import InterruptCallback
from boxtune.training.callbacks.pictures import PicturesCallback
from boxtune.training.callbacks.progress import ProgressCallback
from boxtune.training.callbacks.watch import WatchCallback
from boxtune.training.clock import RunClock, rate_factor
from boxtune.training.curves import Curves
from boxtune.training.sets import RunData, augmented
from boxtune.training.trainer import DetectionTrainer
from boxtune.training.watch import Watch


@dataclass(frozen=True)
class Assembled:
    """A trainer, and those of its callbacks that are asked afterwards.

    Attributes:
        trainer: ready to train.
        interrupt: whether a signal ended the run.
        best: the best weights so far; None where nothing is chosen by the watched images.
    """

    trainer: DetectionTrainer
    interrupt: InterruptCallback
    best: BestCallback | None


def assemble(
    config: Config,
    model: Any,
    loaded: LoadedModel,
    data: RunData,
    collator: Collator,
    contract: Contract,
    record: dict[str, Any],
    console: Console,
) -> Assembled:
    """Put the trainer of a run together.

    Args:
        config: fitted.
        model: `loaded.model` as it will be trained.
        loaded: processor and family.
        data: its sets.
        collator: makes batches.
        contract: how the model must be asked.
        record: of the run; goes into every checkpoint.
        console: what is said goes there.
    """
    settings = config.trainer
    clock = RunClock(None if settings.minutes is None else settings.minutes * 60)
    arguments = training_arguments(config)
    images_per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    interrupt, best = InterruptCallback(), _best(config, data, console)
    checkpoints = CheckpointCallback(
        clock,
        contract,
        to_yaml(config),
        record,
        timed=settings.save_steps == "auto",
        num_kept=settings.save_total_limit,
        kept_step=None if best is None else lambda: best.kept_step,
    )
    trainer = DetectionTrainer(
        model=model,
        args=arguments,
        train_dataset=augmented(config, data.train),
        data_collator=collator,
        processing_class=loaded.processor,
        clock=clock,
        rate_factor=rate_factor(settings.schedule, settings.warmup_fraction),
        callbacks=[
            interrupt,
            checkpoints,
            AuditCallback(),
            DivergenceCallback(),
            ProgressCallback(clock, console, images_per_step),
        ],
    )
    curves = Curves(trainer.callback_handler.callbacks, wandb=config.logging.wandb)
    trainer.add_callback(GradNormCallback(loaded.family, curves))
    if data.watched is not None:
        batch_size = int(config.evaluation.batch_size)
        trainer.watch = watch = Watch(dataclasses.replace(loaded, contract=contract), data.watched, batch_size, console)
        every, decisive = config.evaluation.every, best is not None
        trainer.add_callback(WatchCallback(watch, clock, interrupt, every, decisive=decisive))
        trainer.add_callback(PicturesCallback(watch, curves, config.logging.pictures))
    if best is not None:
        trainer.add_callback(best)
    return Assembled(trainer, interrupt, best)


def _best(config: Config, data: RunData, console: Console) -> BestCallback | None:
    if data.watched is None or not config.chooses_by_watching:
        return None
    return BestCallback(
        keep=config.evaluation.keep_best,
        patience=config.trainer.early_stopping_patience,
        watched=data.watched.fingerprint(),
        console=console,
    )
