"""`boxtune evaluate`."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from boxtune.cli.options import BatchSize, Data, Device, Format, Labels, Model, OnError, OutputDir, Quantize


def command(
    model: Model,
    data: Data,
    output_dir: OutputDir,
    split: Annotated[
        str | None, typer.Option("--split", help="Which split to evaluate on; val where there are splits.")
    ] = None,
    data_format: Format = None,
    labels: Labels = None,
    max_images: Annotated[int | None, typer.Option("--max-images", min=1, help="Only the first so many.")] = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    quantize: Quantize = "none",
    on_error: OnError = "refuse",
    json: Annotated[bool, typer.Option("--json", help="Print metrics.json instead of a table.")] = False,
) -> None:
    """Score a model on a data set: metrics.json, predictions.json (COCO results) and the raw answers."""
    from rich.console import Console

    from boxtune.cli.options import claim_output_dir, split_labels, tell_of_packed_base
    from boxtune.data.dataset import available_splits, load_dataset
    from boxtune.data.splits import UNSPLIT
    from boxtune.errors import DataError
    from boxtune.evaluation.evaluate import evaluate, write_evaluation
    from boxtune.evaluation.summary import print_metrics
    from boxtune.inference.detector import load_detector

    claim_output_dir(output_dir)
    undivided = available_splits(data, data_format) == [UNSPLIT]
    if undivided and split not in (None, UNSPLIT):
        raise DataError(f"{data} has no splits, so none called '{split}': leave --split out to evaluate on all images.")
    if undivided:
        typer.echo(f"{data} has no splits: every image is judged, also those that a training on it has seen.", err=True)
    skipped = output_dir / "skipped.jsonl" if on_error == "skip" else None
    samples = load_dataset(data, None if undivided else split or "val", data_format, on_error, skipped)
    if max_images is not None:
        samples = samples.subset(range(min(max_images, len(samples))))
    detector = load_detector(model, device, labels=split_labels(labels), batch_size=batch_size, quantize=quantize)
    tell_of_packed_base(detector.loaded.contract.quantized_base, quantize)
    if not detector.labels:
        detector.labels = samples.labels
    evaluation = evaluate(detector, samples, console=Console(stderr=True), details=True)
    write_evaluation(output_dir, evaluation)
    if json:
        typer.echo(json_module.dumps(evaluation.metrics.to_dict(), indent=2))
    else:
        console = Console()
        print_metrics(evaluation.metrics, f"{model} on {data}", console)
        console.print(f"Written to {output_dir}", highlight=False, soft_wrap=True)
