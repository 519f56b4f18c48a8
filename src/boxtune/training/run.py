"""One training run, from a configuration to a folder that `load_detector` opens. This file only assembles."""

from __future__ import annotations

import dataclasses
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import set_seed

from boxtune import processes
from boxtune.collators.batch import Collator
from boxtune.collators.encode import SampleEncoder
from boxtune.collators.lengths import check_lengths, longest_answer
from boxtune.collators.objects import ObjectTargets
from boxtune.config.checks import check_areas, check_config
from boxtune.config.engines import engine_of, own_environment
from boxtune.config.load import to_yaml
from boxtune.config.recipes import stage_configs
from boxtune.config.schema import Config
from boxtune.console import say
from boxtune.data.conversation import ConversationStyle
from boxtune.data.dataset import DetectionDataset
from boxtune.errors import BoxtuneError, ConfigError
from boxtune.evaluation.evaluate import check_labels
from boxtune.evaluation.metrics import Metrics
from boxtune.models.areas import (
    AreaSummary,
    LowRank,
    Training,
    num_parameters,
    prepare_for_training,
    recompute_activations,
)
from boxtune.models.bases import check_base, named_base
from boxtune.models.contract import FILE_NAME as CONTRACT_FILE
from boxtune.models.contract import Contract, pixel_limits, set_pixel_limits
from boxtune.models.devices import pick_device
from boxtune.models.load import LoadedModel, load_model
from boxtune.training import auto
from boxtune.training.arguments import check_device, check_engine_here, check_oom
from boxtune.training.aside import UNFINISHED, move_into, written_aside
from boxtune.training.assembly import assemble
from boxtune.training.callbacks.best import BestCallback
from boxtune.training.callbacks.checkpoints import checkpoint_folder, write_run_files
from boxtune.training.callbacks.interrupt import InterruptCallback
from boxtune.training.callbacks.progress import ProgressCallback
from boxtune.training.clock import warms_up
from boxtune.training.failures import explained
from boxtune.training.features import check_cache_folder, open_features
from boxtune.training.head import fit_head
from boxtune.training.last_evaluation import evaluate_at_end
from boxtune.training.preflight import changes, check_model, check_question, describe, show_first_samples
from boxtune.training.record import run_record
from boxtune.training.resume import check_unchanged, claim_output_dir
from boxtune.training.sets import augmented, check_shapes, load_data
from boxtune.training.speed import fit_rows, speed_up
from boxtune.training.stages import StageMark, write_result
from boxtune.training.trainer import DetectionTrainer


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        output_dir: where the model lies.
        num_steps, seconds: of all sittings together.
        losses: logged `(step, loss)`.
        metrics: of the evaluation at the end, or None.
        stopped_by: number of the signal that ended the run early, or None.
        best_step: the step whose weights were saved (`evaluation.keep_best`); None: those of the last one.
    """

    output_dir: Path
    num_steps: int
    seconds: float
    losses: tuple[tuple[int, float], ...]
    metrics: Metrics | None
    stopped_by: int | None = None
    best_step: int | None = None


@own_environment()
def train(
    config: Config, *, resume: bool = False, console: Console | None = None, stage: StageMark | None = None
) -> TrainResult:
    """Fine-tune a model as the configuration says, and evaluate it: one run.

    Args:
        config: its recipe, if any, has one stage; `boxtune.training.recipes` runs those with several.
        resume: go on with the run in the output folder.
        console: what is said goes there; stderr by default.
        stage: which stage of a recipe this run is; goes into its record.

    Raises:
        BoxtuneError: anything in the configuration, the data, the model or the disk that the user can mend.
    """
    console = (console or Console(stderr=True)) if processes.is_first() else Console(quiet=True)
    check_config(config)
    config = _only_stage(config)
    output_dir = Path(config.output_dir)
    checkpoint = claim_output_dir(output_dir, resume)
    if resume and checkpoint is None:
        say(console, f"No checkpoint is in {output_dir} yet: the run begins at its first step.")
    elif checkpoint is not None:
        say(console, f"Going on from {checkpoint}.")
    check_question(config)
    check_oom(config)
    check_engine_here(config)
    check_cache_folder(config)
    set_seed(config.trainer.seed)
    data = load_data(config, console)
    device = pick_device(config.model.device)
    check_device(device)
    asked = config
    config, loaded = _load(config, device)
    known_head = loaded.head is not None
    config, loaded = fit_head(config, loaded, data.train.labels, console)
    config, collator, contract = _fit(config, loaded, data.train, device, stage, known_head=known_head)
    check_shapes(collator.encoder, data)
    if data.val is not None:
        check_labels(contract.labels, data.val, console)
    if data.watched is not None:
        check_labels(contract.labels, data.watched)
    model, rows = _prepare(config, loaded)
    describe(console, config, rows, loaded, data)
    for line in changes(asked, config):
        say(console, line)
    speed = speed_up(model, config, device)
    kept_features, cache_line = open_features(config, model, loaded.processor, len(data.train), device)
    say(console, f"{speed}\n{cache_line}")
    show_first_samples(collator, augmented(config, data.train), config.logging.first_samples, model, console)
    how = speed.record() | {"vision_cache": None if kept_features is None else str(kept_features.cache.folder)}
    record = run_record(data, contract, loaded.base, rows, stage, engine_of(config)) | {"speed": how}
    if checkpoint is not None:
        check_unchanged(checkpoint, config, record)
        check_base(checkpoint, loaded.base)
    try:
        assembled = assemble(config, model, loaded, data, collator, contract, record, console, speed, kept_features)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        if isinstance(error, BoxtuneError | torch.OutOfMemoryError):
            raise
        raise ConfigError(f"transformers refuses a setting of trainer or logging: {error}") from error
    trainer, home = assembled.trainer, output_dir if stage is None else output_dir.parent
    with _explained(output_dir, home):  # after all refusals, so that the same command, mended, finds the folder empty
        write_run_files(output_dir, to_yaml(config), record)
    _run(trainer, checkpoint, output_dir, home)
    assembled.stability.raise_if_stopped()
    stopped_by = assembled.interrupt.received
    result = _result(trainer, output_dir, stopped_by)
    if stopped_by is not None:
        name = signal.Signals(stopped_by).name
        launcher = "the launcher's line and " if processes.count() > 1 else ""
        say(console, f"Stopped by {name}. Go on with: {launcher}boxtune train --resume --output-dir {home}")
        return result
    _tell_of_lost_step(config, result.num_steps, console)
    if (chosen := _take_best(trainer, assembled.best, output_dir, console)) is not None:
        record, result = record | {"best": chosen}, dataclasses.replace(result, best_step=chosen["step"])
    _save_model(trainer, contract, output_dir, to_yaml(config), record, stage)
    if not config.evaluation.at_end or data.val is None:
        return result
    try:
        metrics = evaluate_at_end(config, trainer, loaded, contract, data.val, result.losses, console)
    except (KeyboardInterrupt, SystemExit):
        say(console, f"The model is in {output_dir}; its evaluation was broken off: {_evaluation_of(config)}")
        raise
    return dataclasses.replace(result, metrics=metrics)


def _evaluation_of(config: Config) -> str:
    """The command that evaluates the finished model of a run as the run does at its end."""
    asked = {"--model": config.output_dir, "--data": str(config.data.path), "--split": config.data.val_split}
    if config.data.format != "auto":
        asked["--format"] = config.data.format
    if config.decoder != "text":
        asked["--decoder"] = config.decoder
    asked["--output-dir"] = f"{config.output_dir.rstrip('/')}-evaluated"
    return shlex.join(["boxtune", "evaluate", *(word for pair in asked.items() for word in pair)])


def _only_stage(config: Config) -> Config:
    stages = stage_configs(config)
    if len(stages) > 1:
        raise ConfigError(f"recipe={config.recipe} has {len(stages)} stages: start it by boxtune.run_recipe.")
    return stages[0]


def _prepare(config: Config, loaded: LoadedModel) -> tuple[Any, list[AreaSummary]]:
    """The model with its areas frozen, open or wrapped, and what that came to."""
    training: dict[str, Training] = {a: getattr(config.adapter, a) for a in ("vision", "merger", "language")}
    low_rank = LowRank(**config.adapter.lora.model_dump())
    model = prepare_for_training(loaded.model, loaded.family, training, low_rank, loaded.head)
    if config.trainer.gradient_checkpointing:
        recompute_activations(model)
    if loaded.head is not None:
        rests = config.trainer.rates.detection_head == 0
        loaded.head.requires_grad_(not rests)
        training["detection_head"] = "frozen" if rests else "full"
    return model, check_model(model, loaded.family, training)


def _tell_of_lost_step(config: Config, num_steps: int, console: Console) -> None:
    """With a budget of time nobody knows before how many steps there will be, and the first is a warm-up."""
    minutes, warmup_fraction = config.trainer.minutes, config.trainer.warmup_fraction
    if minutes is not None and warmup_fraction > 0 and not warms_up(num_steps, warmup_fraction):
        say(
            console,
            f"Steps done in {minutes:g} min: only {num_steps}, of which the first, a warm-up, trains next to "
            "nothing. Raise trainer.minutes, or set trainer.warmup_fraction=0.",
        )


def _result(trainer: DetectionTrainer, output_dir: Path, stopped_by: int | None) -> TrainResult:
    state = trainer.state
    losses = tuple((int(row["step"]), float(row["loss"])) for row in state.log_history if "loss" in row)
    return TrainResult(output_dir, state.global_step, trainer.clock.seconds, losses, None, stopped_by)


def _load(config: Config, device: torch.device) -> tuple[Config, LoadedModel]:
    config = auto.fit_speed(auto.fit_quantize(config), device)
    loaded = load_model(
        config.model.name,
        dtype=auto.frozen_dtype(config, device),
        device=device,
        attention="eager" if config.model.attention == "eager" else "sdpa",  # until `speed_up`
        trust_remote_code=config.model.trust_remote_code,
        quantize="nf4" if config.model.quantize == "nf4" else "none",
    )
    if hasattr(loaded.model, "peft_config"):
        raise ConfigError(
            f"model.name={config.model.name} is an adapter: merge it first (boxtune merge), then train the merged "
            "folder; or go on with its own run by --resume."
        )
    config = auto.fit_pixels(config, pixel_limits(loaded.processor))
    set_pixel_limits(loaded.processor, int(config.model.min_pixels), int(config.model.max_pixels))
    return config, loaded


def _fit(
    config: Config,
    loaded: LoadedModel,
    train_set: DetectionDataset,
    device: torch.device,
    stage: StageMark | None,
    *,
    known_head: bool = False,
) -> tuple[Config, Collator, Contract]:
    size = num_parameters(loaded.model)
    config = auto.fit_areas(config, size)
    check_areas(config)
    grounding = config.grounding
    style = ConversationStyle(
        loaded.family.codec, train_set.labels, grounding.prompt, grounding.system, grounding.box_order
    )
    encoder = SampleEncoder(loaded.processor, style, config.collator.max_length, config.data.examples)
    check_lengths(encoder, train_set)
    config, images_per_row = fit_rows(config, loaded, encoder, train_set, device)
    config = auto.fit_training(config, size, len(train_set), device, images_per_row, known_head=known_head)
    limit = config.evaluation.max_new_tokens
    if limit == "auto":
        limit = auto.fit_answer_length(longest_answer(encoder, train_set))
        config = config.changed("evaluation", max_new_tokens=limit)
    contract = Contract(
        model_type=loaded.contract.model_type,
        boxes=loaded.family.codec.describe(),
        min_pixels=int(config.model.min_pixels),
        max_pixels=int(config.model.max_pixels),
        labels=train_set.labels,
        prompt=grounding.prompt,
        system=grounding.system,
        box_order=grounding.box_order,
        max_new_tokens=int(limit),
        quantized_base=_quantized_base(config, device),
        base_weights=None if stage is None else stage.base_weights,
        num_examples=config.data.examples,
        base_of_head=named_base(loaded.base) if config.trains_head_alone else None,
    )
    batching: Any = config.collator.batching
    objects = None if loaded.head is None else ObjectTargets(loaded.processor, loaded.head.config)
    pixels = auto.pixel_dtype(config, device)
    return config, Collator(encoder, config.collator.labels, batching, pixels, objects), contract


def _quantized_base(config: Config, device: torch.device) -> dict[str, str] | None:
    if config.model.quantize != "nf4":
        return None
    return {"method": "nf4", "dtype": str(auto.frozen_dtype(config, device)).removeprefix("torch.")}


def _run(trainer: DetectionTrainer, checkpoint: Path | None, output_dir: Path, home: Path) -> None:
    trainer.remove_callback(_printer())
    try:
        with _explained(output_dir, home):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:  # signal handlers and the terminal are put back after an error too
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, InterruptCallback | ProgressCallback):
                callback.on_train_end(trainer.args, trainer.state, trainer.control)


@contextmanager
def _explained(output_dir: Path, home: Path | None = None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        known = explained(error, output_dir, home)
        if known is None or known is error:
            raise
        raise known from error


def _printer() -> type:
    from transformers.trainer_callback import PrinterCallback  # prints every log as a dict

    return PrinterCallback


def _take_best(
    trainer: DetectionTrainer, best: BestCallback | None, output_dir: Path, console: Console
) -> dict[str, Any] | None:
    """Put the best weights into the model, where they are kept; returns what to record of it."""
    if best is None or best.kept_step is None:
        return None
    if best.kept_step != trainer.state.global_step:
        with _explained(output_dir):
            trainer.take_weights(checkpoint_folder(output_dir, best.kept_step))
    say(
        console,
        f"Saved: the weights of step {best.kept_step}, with AP {best.best_map:.3f} on the watched images the best of "
        f"{best.num_evaluations} evaluations.",
    )
    return {"step": best.best_step, "map": best.best_map, "num_evaluations": best.num_evaluations}


def _save_model(
    trainer: DetectionTrainer,
    contract: Contract,
    output_dir: Path,
    config_yaml: str,
    record: dict[str, Any],
    stage: StageMark | None,
) -> None:
    first, aside = processes.is_first(), output_dir / UNFINISHED / "model"
    with _explained(output_dir), written_aside(output_dir, aside.name) if first else nullcontext():
        trainer.accelerator.wait_for_everyone()
        trainer.save_model(str(aside))
        trainer.accelerator.wait_for_everyone()
        if first:
            write_run_files(aside, config_yaml, record)
            if stage is not None:
                write_result(aside, stage)
            contract.save(aside)
            move_into(aside, output_dir, seal=CONTRACT_FILE)
