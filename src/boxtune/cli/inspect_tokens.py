"""`boxtune inspect tokens`."""

from __future__ import annotations

import dataclasses
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from boxtune.cli.options import Format, OnError, Overrides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boxtune.collators.batch import Collator
    from boxtune.config.schema import Config
    from boxtune.data.dataset import DetectionDataset
    from boxtune.data.sample import Sample


def command(
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file; see `boxtune inspect config`.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Folder, file, hub id or synthetic:NAME.")] = None,
    data_format: Format = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Folder, adapter folder, hub id, `embedded`, `tiny:FAMILY`.")
    ] = None,
    num: Annotated[int, typer.Option("--num", min=1, max=64, help="Samples of the batch, the first ones.")] = 3,
    split: Annotated[str | None, typer.Option("--split", help="Which split; train where there are splits.")] = None,
    batching: Annotated[Literal["padded", "packed"] | None, typer.Option("--batching", help="Of the batch.")] = None,
    labels: Annotated[
        Literal["assistant", "all_text"] | None, typer.Option("--labels", help="Which tokens are trained.")
    ] = None,
    on_error: OnError = "refuse",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Which tokens of a batch are trained, as the collator of a run makes it. The model's weights are not read."""
    from rich.console import Console

    from boxtune.config.load import load_config
    from boxtune.data.examples import ExampleDataset
    from boxtune.errors import ConfigError
    from boxtune.inspection.tokens import analyze_token_distribution, print_tokens, run_text

    given = {
        "data.path": data,
        "data.format": data_format,
        "model.name": model,
        "data.train_split": split,
        "collator.batching": batching,
        "collator.labels": labels,
    }
    named = [f"{key}={value}" for key, value in given.items() if value is not None]
    settings = load_config(config, [*named, *(overrides or [])])
    if settings.data.path is None:
        raise ConfigError("No data: say --data FOLDER, or data.path in the configuration.")
    dataset = _dataset(settings, on_error)
    collator = collator_of_run(settings, dataset.labels)
    shown: Sequence[Sample] = dataset
    if settings.data.examples:
        shown = ExampleDataset(dataset, settings.data.examples, settings.trainer.seed)
    batch = collator([shown[index] for index in range(min(num, len(shown)))])
    tokenizer = collator.encoder.processor.tokenizer
    distribution = analyze_token_distribution(batch, tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    if not json:
        print_tokens(distribution, batch, tokenizer, Console())
        return
    fields: dict[str, Any] = dataclasses.asdict(distribution)
    for sample, known in zip(fields["samples"], distribution.samples, strict=True):
        sample["length"] = known.length
        row = batch["inputs"]["input_ids"][known.row]
        for run, known_run in zip(sample["runs"], known.runs, strict=True):
            run["text"] = run_text(known_run, row, tokenizer)
    shares = {"share_trained": distribution.share_trained, "share_padding": distribution.share_padding}
    typer.echo(json_module.dumps({**fields, **shares, "num_tokens": distribution.num_tokens}, indent=2))


def _dataset(config: Config, on_error: Literal["refuse", "skip"]) -> DetectionDataset:
    from boxtune.data.dataset import available_splits, load_dataset
    from boxtune.data.splits import UNSPLIT, canonical_split
    from boxtune.errors import DataError

    path, split = str(config.data.path), canonical_split(config.data.train_split)
    known = None if config.data.format == "auto" else config.data.format
    if available_splits(path, known) != [UNSPLIT]:
        return load_dataset(path, split, known, on_error)
    if split not in ("train", UNSPLIT):
        raise DataError(f"{path} has no splits, so none called '{config.data.train_split}': leave --split out.")
    return load_dataset(path, None, known, on_error)


def collator_of_run(config: Config, labels: tuple[str, ...]) -> Collator:
    """As `training/run.py` makes it: the model's processor with the run's limits, the family's text form."""
    from boxtune.collators.batch import Collator
    from boxtune.collators.encode import SampleEncoder
    from boxtune.data.conversation import ConversationStyle
    from boxtune.inspection.skeleton import load_skeleton
    from boxtune.models.contract import pixel_limits, set_pixel_limits
    from boxtune.models.places import load_processor
    from boxtune.training import auto

    name, trusted = config.model.name, config.model.trust_remote_code
    codec = load_skeleton(name, trust_remote_code=trusted).family.codec
    processor = load_processor(name, trust_remote_code=trusted)
    config = auto.fit_pixels(config, pixel_limits(processor))
    set_pixel_limits(processor, int(config.model.min_pixels), int(config.model.max_pixels))
    grounding = config.grounding
    style = ConversationStyle(codec, labels, grounding.prompt, grounding.system, grounding.box_order)
    encoder = SampleEncoder(processor, style, config.collator.max_length, config.data.examples)
    return Collator(encoder, config.collator.labels, "packed" if config.collator.batching == "packed" else "padded")
