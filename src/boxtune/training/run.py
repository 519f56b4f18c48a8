"""One training run, from a configuration to a folder that `load_detector` opens. This file only assembles."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import set_seed

from boxtune.collators.batch import Collator
from boxtune.collators.encode import SampleEncoder
from boxtune.collators.lengths import check_lengths, longest_answer, num_image_tokens
from boxtune.config.checks import check_areas, check_config
from boxtune.config.load import to_yaml
from boxtune.config.recipes import stage_configs
from boxtune.config.schema import Config
from boxtune.data.conversation import ConversationStyle
from boxtune.data.dataset import DetectionDataset, available_splits, load_dataset
from boxtune.data.sample import Sample
from boxtune.data.splits import UNSPLIT, canonical_split
from boxtune.errors import BoxtuneError, ConfigError, DataError
from boxtune.evaluation.evaluate import check_labels, evaluate, write_evaluation
from boxtune.evaluation.metrics import Metrics
from boxtune.inference.detector import Detector, pick_device
from boxtune.models.areas import AreaSummary, LowRank, num_parameters, prepare_for_training, recompute_activations
from boxtune.models.attention import use_matmul_attention
from boxtune.models.contract import Contract, pixel_limits, set_pixel_limits
from boxtune.models.load import LoadedModel, load_model
from boxtune.training import auto
from boxtune.training.arguments import training_arguments
from boxtune.training.callbacks.audit import AuditCallback
from boxtune.training.callbacks.checkpoints import CheckpointCallback, write_run_files
from boxtune.training.callbacks.divergence import DivergenceCallback
from boxtune.training.callbacks.interrupt import InterruptCallback
from boxtune.training.callbacks.progress import ProgressCallback
from boxtune.training.clock import RunClock, rate_factor
from boxtune.training.failures import explained
from boxtune.training.preflight import check_model, describe
from boxtune.training.record import run_record
from boxtune.training.resume import check_unchanged, claim_output_dir
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
    """

    output_dir: Path
    num_steps: int
    seconds: float
    losses: tuple[tuple[int, float], ...]
    metrics: Metrics | None
    stopped_by: int | None = None


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
    console = console or Console(stderr=True)
    check_config(config)
    config = _only_stage(config)
    output_dir = Path(config.output_dir)
    checkpoint = claim_output_dir(output_dir, resume)
    set_seed(config.trainer.seed)
    train_set, val_set = load_data(config, console)
    device = pick_device(config.model.device)
    config, loaded = _load(config, device)
    config, collator, contract = _fit(config, loaded, train_set, device, stage)
    _check_shapes(collator.encoder, train_set, val_set)
    if val_set is not None:
        check_labels(contract.labels, val_set, console)
    model, rows = _prepare(config, loaded)
    describe(console, config, rows, loaded, train_set, val_set)
    record = run_record(train_set, contract, loaded.base, stage)
    if checkpoint is not None:
        check_unchanged(checkpoint, config, record)
    with _explained(output_dir):
        write_run_files(output_dir, to_yaml(config), record)
    shown = _augmented(config, train_set)
    try:
        trainer, interrupt = _trainer(config, model, loaded.processor, shown, collator, contract, record, console)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        if isinstance(error, BoxtuneError | torch.OutOfMemoryError):
            raise
        raise ConfigError(f"transformers refuses a setting of trainer or logging: {error}") from error
    _run(trainer, checkpoint, output_dir)
    result = _result(trainer, output_dir, interrupt.received)
    if interrupt.received is not None:
        name, home = signal.Signals(interrupt.received).name, output_dir if stage is None else output_dir.parent
        console.print(f"Stopped by {name}. Go on with: boxtune train --resume --output-dir {home}", soft_wrap=True)
        return result
    _save_model(trainer, contract, output_dir, to_yaml(config), record, stage)
    if not config.evaluation.at_end or val_set is None:
        return result
    trained = dataclasses.replace(loaded, model=trainer.model, contract=contract, trained_here=True)
    return dataclasses.replace(result, metrics=_evaluate_at_end(config, trained, val_set, console))


def _only_stage(config: Config) -> Config:
    stages = stage_configs(config)
    if len(stages) > 1:
        raise ConfigError(f"recipe={config.recipe} has {len(stages)} stages: start it by boxtune.run_recipe.")
    return stages[0]


def _prepare(config: Config, loaded: LoadedModel) -> tuple[Any, list[AreaSummary]]:
    """The model with its areas frozen, open or wrapped, and what that came to."""
    training = {area: getattr(config.adapter, area) for area in ("vision", "merger", "language")}
    model = prepare_for_training(loaded.model, loaded.family, training, LowRank(**config.adapter.lora.model_dump()))
    if config.trainer.gradient_checkpointing:
        recompute_activations(model)
    return model, check_model(model, loaded.family, training)


def _result(trainer: DetectionTrainer, output_dir: Path, stopped_by: int | None) -> TrainResult:
    state = trainer.state
    losses = tuple((int(row["step"]), float(row["loss"])) for row in state.log_history if "loss" in row)
    return TrainResult(output_dir, state.global_step, trainer.clock.seconds, losses, None, stopped_by)


def _evaluate_at_end(config: Config, trained: LoadedModel, val_set: DetectionDataset, console: Console) -> Metrics:
    detector = Detector(trained, batch_size=int(config.evaluation.batch_size))
    limit = config.evaluation.max_images
    held = val_set if limit is None else val_set.subset(range(min(limit, len(val_set))))
    evaluation = evaluate(detector, held, console=console, details=True)
    write_evaluation(Path(config.output_dir), evaluation)
    return evaluation.metrics


def load_data(config: Config, console: Console) -> tuple[DetectionDataset, DetectionDataset | None]:
    """Train and val set of a run; a part of train is held out where there is no val split.

    Raises:
        DataError: see `load_dataset`.
    """
    data = config.data
    path, known = data.path, None if data.format == "auto" else data.format
    assert path is not None  # check_config
    splits = available_splits(path, known)
    train_split, val_split = canonical_split(data.train_split), canonical_split(data.val_split)

    def load(split: str | None) -> DetectionDataset:
        name = f"skipped-{split or 'all'}.jsonl"
        skipped = Path(config.output_dir) / name if data.on_error == "skip" else None
        dataset = load_dataset(path, split, known, data.on_error, skipped)
        if dataset.skipped:
            console.print(f"{len(dataset.skipped)} bad records left out, see {skipped}.", soft_wrap=True)
        return dataset

    undivided = splits == [UNSPLIT]
    if undivided and train_split not in ("train", UNSPLIT):
        raise DataError(f"{path} has no splits, so none called '{data.train_split}': leave data.train_split out.")
    train_set = load(None if undivided else train_split)
    val_set: DetectionDataset | None = None
    if val_split == train_split:
        console.print("data.val_split is data.train_split: evaluated on the images it was trained on.", soft_wrap=True)
        val_set = train_set
    elif val_split in splits:
        val_set = load(val_split)
    elif config.evaluation.at_end and data.val_fraction > 0 and len(train_set) > 1:
        train_set, val_set = train_set.split_off(data.val_fraction, config.trainer.seed)
        console.print(f"No '{val_split}' split in {path}: {len(val_set)} of the images are held out.", soft_wrap=True)
        val_set = val_set if len(val_set) else None
    if data.max_train_images is not None:
        train_set = train_set.subset(range(min(data.max_train_images, len(train_set))))
    if len(train_set) == 0:
        raise DataError(f"No image of {data.path} is left to train on: lower data.val_fraction, or add images.")
    return train_set, val_set


def _check_shapes(encoder: SampleEncoder, *sets: DetectionDataset | None) -> None:
    """Find images that the processor refuses before the first step, not hours after it."""
    for samples in sets:
        for index in range(0 if samples is None else len(samples)):
            assert samples is not None
            height, width = samples.image_hw(index)
            try:
                num_image_tokens(encoder, (height, width))
            except ValueError as error:
                raise DataError(
                    f"{samples.records[index].source}: the model takes no image of {width}×{height} px ({error}): "
                    "cut it into parts, or leave it out."
                ) from None


def _augmented(config: Config, train_set: DetectionDataset) -> Sequence[Sample]:
    if config.data.augment == "none" and not config.data.flip:
        return train_set
    from boxtune.data.augmentation import AugmentedDataset, build_transform

    return AugmentedDataset(train_set, build_transform(config.data.augment, config.data.flip))


def _load(config: Config, device: torch.device) -> tuple[Config, LoadedModel]:
    config = auto.fit_quantize(config)
    loaded = load_model(
        config.model.name,
        dtype=auto.frozen_dtype(config, device),
        device=device,
        attention=config.model.attention,
        trust_remote_code=config.model.trust_remote_code,
        quantize="nf4" if config.model.quantize == "nf4" else "none",
    )
    if hasattr(loaded.model, "peft_config"):
        raise ConfigError(
            f"model.name={config.model.name} is an adapter: merge it first (boxtune merge), then train the merged "
            "folder; or go on with its own run by --resume."
        )
    if device.type == "cpu" and config.model.attention == "sdpa" and auto.use_bf16(config, device):
        use_matmul_attention(loaded.model)
    config = auto.fit_pixels(config, pixel_limits(loaded.processor))
    set_pixel_limits(loaded.processor, int(config.model.min_pixels), int(config.model.max_pixels))
    return config, loaded


def _fit(
    config: Config, loaded: LoadedModel, train_set: DetectionDataset, device: torch.device, stage: StageMark | None
) -> tuple[Config, Collator, Contract]:
    size = num_parameters(loaded.model)
    config = auto.fit_areas(config, size)
    check_areas(config)
    config = auto.fit_training(config, size, len(train_set), device)
    grounding = config.grounding
    style = ConversationStyle(
        loaded.family.codec, train_set.labels, grounding.prompt, grounding.system, grounding.box_order
    )
    encoder = SampleEncoder(loaded.processor, style, config.collator.max_length)
    check_lengths(encoder, train_set)
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
    )
    return config, Collator(encoder, config.collator.labels, config.collator.batching), contract


def _quantized_base(config: Config, device: torch.device) -> dict[str, str] | None:
    if config.model.quantize != "nf4":
        return None
    return {"method": "nf4", "dtype": str(auto.frozen_dtype(config, device)).removeprefix("torch.")}


def _trainer(
    config: Config,
    model: Any,
    processor: Any,
    train_set: Sequence[Sample],
    collator: Collator,
    contract: Contract,
    record: dict[str, Any],
    console: Console,
) -> tuple[DetectionTrainer, InterruptCallback]:
    settings = config.trainer
    clock = RunClock(None if settings.minutes is None else settings.minutes * 60)
    arguments = training_arguments(config)
    images_per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    interrupt = InterruptCallback()
    timed = settings.save_steps == "auto"
    trainer = DetectionTrainer(
        model=model,
        args=arguments,
        train_dataset=train_set,
        data_collator=collator,
        processing_class=processor,
        clock=clock,
        rate_factor=rate_factor(settings.schedule, settings.warmup_fraction),
        callbacks=[
            interrupt,
            CheckpointCallback(
                clock, contract, to_yaml(config), record, timed=timed, num_kept=settings.save_total_limit
            ),
            AuditCallback(),
            DivergenceCallback(),
            ProgressCallback(clock, console, images_per_step),
        ],
    )
    return trainer, interrupt


def _run(trainer: DetectionTrainer, checkpoint: Path | None, output_dir: Path) -> None:
    trainer.remove_callback(_printer())
    try:
        with _explained(output_dir):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:  # signal handlers and the terminal are put back after an error too
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, InterruptCallback | ProgressCallback):
                callback.on_train_end(trainer.args, trainer.state, trainer.control)


@contextmanager
def _explained(output_dir: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        known = explained(error, output_dir)
        if known is None or known is error:
            raise
        raise known from error


def _printer() -> type:
    from transformers.trainer_callback import PrinterCallback  # prints every log as a dict

    return PrinterCallback


def _save_model(
    trainer: DetectionTrainer,
    contract: Contract,
    output_dir: Path,
    config_yaml: str,
    record: dict[str, Any],
    stage: StageMark | None,
) -> None:
    with _explained(output_dir):
        trainer.save_model(str(output_dir))
        write_run_files(output_dir, config_yaml, record)
        if stage is not None:
            write_result(output_dir, stage)
        contract.save(output_dir)  # last: it says that the folder is whole
