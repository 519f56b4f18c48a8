"""`boxtune score`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer


def command(
    annotations: Annotated[Path, typer.Option("--annotations", help="COCO annotations (true boxes).")],
    predictions: Annotated[Path, typer.Option("--predictions", help="COCO results: a list of boxes with scores.")],
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", help="Also write metrics.json and curves.json there.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score COCO files without a model: equal to pycocotools, with intervals, kinds of mistakes and calibration."""
    from rich.console import Console

    from boxtune.cli.options import claim_output_dir
    from boxtune.evaluation.coco import read_scored
    from boxtune.evaluation.precision_recall import precision_curves
    from boxtune.evaluation.ranking import rank_images
    from boxtune.evaluation.summary import print_metrics

    if output_dir is not None:
        claim_output_dir(output_dir)
    scored = read_scored(annotations, predictions)
    metrics = scored.metrics
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "metrics.json").write_text(json_module.dumps(metrics.to_dict(), indent=2) + "\n")
        precision_curves(rank_images(scored.images)).write(output_dir)
    if json:
        typer.echo(json_module.dumps(metrics.to_dict(), indent=2))
    else:
        print_metrics(metrics, str(predictions), Console())
