"""The trainer of a run with everything that looks on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from transformers import TrainingArguments

from boxtune.collators.batch import Collator
from boxtune.collators.lengths import sample_lengths, token_shares
from boxtune.collators.packing import PackedSampler
from boxtune.config.load import to_yaml
from boxtune.config.schema import Config
from boxtune.console import say
from boxtune.data.dataset import DetectionDataset
from boxtune.models.bare import bare_model
from boxtune.models.contract import Contract
from boxtune.models.load import LoadedModel
from boxtune.training.arguments import training_arguments
from boxtune.training.callbacks.agreement import AgreementCallback
from boxtune.training.callbacks.audit import AuditCallback
from boxtune.training.callbacks.best import BestCallback
from boxtune.training.callbacks.checkpoints import CheckpointCallback
from boxtune.training.callbacks.grad_norm import GradNormCallback
from boxtune.training.callbacks.interrupt import InterruptCallback
from boxtune.training.callbacks.memory import MemoryCallback
from boxtune.training.callbacks.parts import PartsCallback
from boxtune.training.callbacks.phases import PhaseCallback
from boxtune.training.callbacks.pictures import PicturesCallback
from boxtune.training.callbacks.progress import ProgressCallback
from boxtune.training.callbacks.rates import RatesCallback
from boxtune.training.callbacks.stability import StabilityCallback
from boxtune.training.callbacks.terms import TermsCallback
from boxtune.training.callbacks.watch import WatchCallback
from boxtune.training.clock import RunClock
from boxtune.training.control import controls
from boxtune.training.curves import Curves
from boxtune.training.failures import what_would_fit
from boxtune.training.features import RunFeatures
from boxtune.training.head import objective
from boxtune.training.memory import held_in_training, share_of, step_cost
from boxtune.training.sets import RunData, augmented
from boxtune.training.speed import Speed
from boxtune.training.stability import Stability
from boxtune.training.trainer import DetectionTrainer
from boxtune.training.watch import Watch


@dataclass(frozen=True)
class Assembled:
    """A trainer, and those of its callbacks that are asked afterwards.

    Attributes:
        trainer: ready to train.
        interrupt: whether a signal ended the run.
        stability: whether faults ended it.
        best: the best weights so far; None where nothing is chosen by the watched images.
    """

    trainer: DetectionTrainer
    interrupt: InterruptCallback
    stability: Stability
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
    speed: Speed | None = None,
    kept_features: RunFeatures | None = None,
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
        speed: what was done to the model to be fast.
        kept_features: of the pictures, on disk; None: none are kept.
    """
    settings = config.trainer
    clock = RunClock(None if settings.minutes is None else settings.minutes * 60)
    arguments = training_arguments(config)
    packing = packed_sampler(config, collator, data.train, arguments, console)
    images_per_row = arguments.train_batch_size if packing is None else packing.samples_per_row
    images_per_step = images_per_row * arguments.gradient_accumulation_steps * arguments.world_size
    tell = partial(say, console)
    interrupt, best = InterruptCallback(tell), _best(config, data, console)
    rates, stability = controls(config, model, loaded.family, clock, _real_images(data.train, packing, arguments), tell)
    audit = AuditCallback(rates.phases.is_resting)
    parts = PartsCallback(retry=settings.oom == "retry", say=tell, advice=partial(what_would_fit, config))
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
        train_dataset=augmented(config, data.train) if kept_features is None else kept_features.pictures(data.train),
        data_collator=collator,
        processing_class=loaded.processor,
        clock=clock,
        rates=rates,
        stability=stability,
        speed=speed,
        packing=packing,
        objective=objective(config, loaded.head),
        head_alone=contract.base_of_head is not None,
        kept_features=kept_features,
        interrupt=interrupt,
        parts=parts,
        callbacks=[
            interrupt,
            checkpoints,
            parts,
            audit,
            ProgressCallback(clock, console, images_per_step),
        ],
    )
    trainer.say = tell
    trainer.complete = checkpoints.complete
    if kept_features is not None:
        kept_features.say = tell
    trainer.add_callback(PhaseCallback(rates.phases, clock, tell, audit.look_again))
    curves = Curves(trainer.callback_handler.callbacks, wandb=config.logging.wandb)
    if arguments.device.type == "cuda":
        trainer.add_callback(
            MemoryCallback(_estimated_bytes(config, model, collator, data.train, packing), tell, curves)
        )
    trainer.add_callback(GradNormCallback(loaded.family, curves))
    trainer.add_callback(RatesCallback(rates, curves))
    trainer.add_callback(TermsCallback(curves))
    if data.watched is not None:
        batch_size = int(config.evaluation.batch_size)
        asked = dataclasses.replace(loaded, contract=contract)
        trainer.watch = watch = Watch(asked, data.watched, batch_size, console, config.decoder)
        every, decisive = config.evaluation.every, best is not None
        if best is None:  # a look that chooses is taken to its end, else a resumed run would choose among fewer
            watch.looking = interrupt.looking
        trainer.add_callback(WatchCallback(watch, clock, interrupt, every, decisive=decisive))
        trainer.add_callback(PicturesCallback(watch, curves, config.logging.pictures))
    if best is not None:
        trainer.add_callback(best)
    trainer.add_callback(AgreementCallback(interrupt))
    trainer.add_callback(StabilityCallback(stability, curves, interrupt))
    return Assembled(trainer, interrupt, stability, best)


def _real_images(samples: DetectionDataset, packing: PackedSampler | None, arguments: TrainingArguments) -> float:
    """Images a step on average, over all batches and processes, the short ones at the end of an epoch included."""
    per_batch = arguments.train_batch_size * arguments.world_size
    num_batches = math.ceil(len(samples) / per_batch) if packing is None else len(packing)
    return len(samples) / math.ceil(num_batches / arguments.gradient_accumulation_steps)


def packed_sampler(
    config: Config, collator: Collator, samples: DetectionDataset, arguments: TrainingArguments, console: Console
) -> PackedSampler | None:
    """Rows within `collator.token_budget`, where there is one."""
    budget = config.collator.token_budget
    if config.collator.batching != "packed" or not isinstance(budget, int):
        return None
    sampler = PackedSampler(
        sample_lengths(collator.encoder, samples),
        budget,
        config.trainer.seed,
        rank=arguments.process_index,
        num_processes=arguments.world_size,
        rows_per_step=arguments.world_size * arguments.gradient_accumulation_steps,
    )
    say(
        console,
        f"Packing: {len(sampler)} rows of up to {budget} tokens an epoch, {sampler.fullness:.1%} full, "
        f"{sampler.samples_per_row:.1f} images each",
    )
    return sampler


def _estimated_bytes(
    config: Config, model: Any, collator: Collator, samples: DetectionDataset, packing: PackedSampler | None
) -> int:
    bare = bare_model(model)
    shares = token_shares(collator.encoder, samples, config.collator.labels)
    cost = step_cost(bare, config, share_of(config, held_in_training(model)), **shares)
    if packing is not None:
        tokens = packing.budget
    else:
        tokens = int(config.trainer.per_device_train_batch_size) * max(sample_lengths(collator.encoder, samples))
    return cost.peak_bytes(tokens, checkpointing=bool(config.trainer.gradient_checkpointing))


def _best(config: Config, data: RunData, console: Console) -> BestCallback | None:
    if data.watched is None or not config.chooses_by_watching:
        return None
    return BestCallback(
        keep=config.evaluation.keep_best,
        patience=config.trainer.early_stopping_patience,
        watched=data.watched.fingerprint(),
        console=console,
    )
