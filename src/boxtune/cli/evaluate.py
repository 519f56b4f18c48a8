"""`boxtune evaluate`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from boxtune.cli.options import (
    BatchSize,
    Data,
    Decoder,
    Device,
    Engine,
    Examples,
    ExamplesFrom,
    Format,
    FreeLabels,
    Labels,
    Model,
    OnError,
    OutputDir,
    Quantize,
)


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
    decoder: Decoder = "text",
    free_labels: FreeLabels = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    quantize: Quantize = "none",
    engine: Engine = "own",
    examples: Examples = 0,
    examples_from: ExamplesFrom = None,
    candidates: Annotated[
        int, typer.Option("--candidates", min=0, help="Boxes to name after the end of each answer, for AP; 0: none.")
    ] = 5,
    on_error: OnError = "refuse",
    json: Annotated[bool, typer.Option("--json", help="Print metrics.json instead of a table.")] = False,
) -> None:
    """Score a model on a data set: metrics.json, predictions.json (COCO results) and the raw answers.

    Several processes (torchrun -m boxtune evaluate …) share the images, and the first one writes.
    """
    from rich.console import Console

    from boxtune import processes
    from boxtune.cli.options import claim_shared_output_dir, open_detector, split_labels
    from boxtune.evaluation.evaluate import evaluate_with_notes, open_judged
    from boxtune.inference.examples import check_examples, open_examples

    with processes.joined():
        claim_shared_output_dir(output_dir)
        first = processes.is_first()
        aside = Console(stderr=True, quiet=not first)
        samples = open_judged(
            data,
            split,
            data_format=data_format,
            on_error=on_error,
            skipped_path=output_dir / "skipped.jsonl" if on_error == "skip" and first else None,
            max_images=max_images,
            console=aside,
        )
        asking: dict[str, Any] = {"labels": split_labels(labels), "batch_size": batch_size}
        asking |= {"num_candidates": candidates, "decoder": decoder, "free_labels": free_labels}
        shown = open_examples(examples, examples_from, judged=(data, samples))
        detector = open_detector(engine, model, device=device, quantize=quantize, examples=shown, **asking)
        if not detector.labels:
            detector.labels = samples.labels
        check_examples(shown, detector.labels)
        evaluation = evaluate_with_notes(model, detector, samples, aside, shared=True)
    if first:
        _write(evaluation, output_dir, model, data, samples, json)


def _write(evaluation: Any, output_dir: Path, model: str, data: str, samples: Any, json: bool) -> None:
    from rich.console import Console

    from boxtune.console import say
    from boxtune.evaluation.evaluate import write_evaluation
    from boxtune.evaluation.report import write_report
    from boxtune.evaluation.summary import print_metrics

    write_evaluation(output_dir, evaluation)
    report = output_dir / "report.html"
    write_report(report, title=f"{model} on {data}", models=[(model, evaluation)], samples=samples)
    if json:
        typer.echo(json_module.dumps(evaluation.metrics.to_dict(), indent=2))
    else:
        console = Console()
        print_metrics(evaluation.metrics, f"{model} on {data}", console)
        say(console, f"Written to {output_dir}; look at {report}")
