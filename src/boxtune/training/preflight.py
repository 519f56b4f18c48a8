"""The last look before the first step: what is trained is what was asked for, and the user is shown it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from boxtune.collators.batch import Collator
from boxtune.config.schema import Config
from boxtune.console import say
from boxtune.data.sample import Sample
from boxtune.errors import ConfigError, ModelError
from boxtune.grounding.prompts import check_template
from boxtune.inspection.tokens import analyze_token_distribution, print_tokens
from boxtune.models.areas import AreaSummary, Training, summarize, with_head
from boxtune.models.devices import pick_device
from boxtune.models.families import Family
from boxtune.models.load import LoadedModel
from boxtune.models.quantize import is_4bit
from boxtune.training.auto import use_bf16
from boxtune.training.interlude import interlude
from boxtune.training.sets import RunData

_IMAGE_PLACE = "<|image_pad|>"  # of all families


def check_question(config: Config) -> None:
    """Refuse a prompt that could not be filled in, or that has a place for an image that is not there.

    Raises:
        ConfigError: names the key and the remedy.
    """
    for key, text in (("prompt", config.grounding.prompt), ("system", config.grounding.system)):
        if text is not None and _IMAGE_PLACE in text:
            raise ConfigError(f"grounding.{key} holds {_IMAGE_PLACE}, where an image would stand: leave it out.")
    if config.grounding.prompt is not None:
        check_template(config.grounding.prompt)


def check_model(model: Any, family: Family, training: Mapping[str, Training]) -> list[AreaSummary]:
    """Compare every parameter with what was declared for its area; returns the areas.

    Args:
        model: as it will be trained.
        family: its row.
        training: area → what was declared, for `vision`, `merger` and `language` (with `lm_head`).

    Raises:
        ModelError: a rule that matched nothing or too little, trained weights or LoRA in a frozen area, 4-bit weights
            that should be trained, trained weights that are not fp32.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and is_4bit(parameter):
            raise ModelError(
                f"'{name}' holds 4-bit weights, which no step can change: use LoRA, or model.quantize=none."
            )
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise ModelError(f"'{name}' is to be trained as {parameter.dtype}, whose rounding swallows small updates.")
    rows = summarize(model, family)
    found = {row.area: row for row in rows}
    for area, declared in with_head(training).items():
        row = found.get(area, AreaSummary(area))
        if area == "lm_head" and area not in found:  # tied: its weight is the embedding's
            continue
        if row.training == declared and (declared == "lora" or not row.num_low_rank):
            continue
        untouched = row.training == "frozen" and not row.num_low_rank
        what = "nothing of it is trained" if untouched else f"it is {row.training}"
        raise ModelError(
            f"adapter.{area}={declared}, but {what} ({row.num_trainable:,} of {row.num_parameters:,} parameters, "
            f"{row.num_low_rank:,} of LoRA): the rules for {family.model_type} in models/families.py do not fit."
        )
    return rows


def areas_table(rows: Sequence[AreaSummary]) -> Table:
    """What is trained, area by area, as a table for the terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("area")
    table.add_column("training")
    for title in ("tensors", "parameters", "trained"):
        table.add_column(title, justify="right")
    table.add_column("held as")
    table.add_column("MB", justify="right")
    for row in rows:
        trained = f"{row.num_trainable:,}" if row.num_trainable else "-"
        numbers = (str(row.num_tensors), f"{row.num_parameters:,}", trained)
        table.add_row(row.area, row.training, *numbers, " ".join(row.dtypes), f"{row.num_bytes / 1e6:,.1f}")
    return table


def changes(asked: Config, fitted: Config) -> list[str]:
    """What was asked for and is done otherwise, or takes another setting with it: a line each.

    Args:
        asked: as the user said it.
        fitted: what is run.
    """
    lines = []
    smallest, largest = asked.model.min_pixels, asked.model.max_pixels
    if smallest == "auto" and largest == fitted.model.min_pixels:
        lines.append(
            f"model.max_pixels={largest} allows no more than the model's own min_pixels, which is lowered to it: every "
            "image is brought to this area."
        )
    if largest == "auto" and smallest == fitted.model.max_pixels:
        lines.append(f"model.min_pixels={smallest} is no less than model.max_pixels, which is raised to it.")
    batch_size, budget = asked.trainer.per_device_train_batch_size, fitted.collator.token_budget
    packed = fitted.collator.batching == "packed" and isinstance(budget, int)
    if batch_size != "auto" and asked.collator.token_budget == "auto" and packed:
        lines.append(
            f"trainer.per_device_train_batch_size={batch_size} is not used: rows of up to {budget} tokens hold as many "
            f"images as fit, {fitted.trainer.per_device_train_batch_size} on average. To go by it, set "
            "collator.token_budget=null."
        )
    return lines


def show_first_samples(collator: Collator, samples: Sequence[Sample], count: int, model: Any, console: Console) -> None:
    """The first samples as training makes a batch of them: which tokens are image, read, or learned.

    Args:
        collator: of the run.
        samples: augmented as in training; what is drawn for that is put back.
        count: of samples; none are shown for 0.
        model: that will be trained.
        console: where it is written.
    """
    count = min(count, len(samples))
    if not count:
        return
    with interlude(model):
        batch = collator([samples[index] for index in range(count)])
    tokenizer = collator.encoder.processor.tokenizer
    found = analyze_token_distribution(batch, tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    print_tokens(found, batch, tokenizer, console)


def describe(
    console: Console,
    config: Config,
    rows: Sequence[AreaSummary],
    loaded: LoadedModel,
    data: RunData,
) -> None:
    """Say what will be trained on what."""
    names = ", ".join(data.train.labels[:8]) + (" …" if len(data.train.labels) > 8 else "")
    held = "none" if data.val is None else str(len(range(len(data.val))[: config.evaluation.max_images]))
    part = "held out of train" if config.watch_split == "train" else "of these"
    watched = "" if data.watched is None else f", {len(data.watched)} {part} to watch"
    settings = config.trainer
    lengths = {"minute": settings.minutes, "step": settings.max_steps, "epoch": settings.num_train_epochs}
    length = next(f"{number:g} {unit}{'' if number == 1 else 's'}" for unit, number in lengths.items() if number)
    device = pick_device(config.model.device)
    arithmetic = "bf16" if use_bf16(config, device) else "fp32"
    trained, total = (sum(getattr(row, name) for row in rows) for name in ("num_trainable", "num_parameters"))
    say(
        console,
        f"Data: {len(data.train)} images to train on, {held} to evaluate on{watched}; labels: {names}\n"
        f"Model: {loaded.base} ({loaded.contract.model_type}); {trained:,} of {total:,} parameters are trained",
    )
    console.print(areas_table(rows), highlight=False)
    again = ", activations computed twice to save memory" if settings.gradient_checkpointing is True else ""
    say(
        console,
        f"Run: {length}, batch {settings.per_device_train_batch_size}, rate {settings.learning_rate:g}, "
        f"images up to {config.model.max_pixels} px, on {device} in {arithmetic}{again}; into {config.output_dir}",
    )
