"""`boxtune score`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer


def command(
    annotations: Annotated[Path, typer.Option("--annotations", help="COCO annotations (true boxes).")],
    predictions: Annotated[Path, typer.Option("--predictions", help="COCO results: a list of boxes with scores.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score COCO files without a model: equal to pycocotools."""
    from rich.console import Console

    from boxtune.evaluation.coco import score_files
    from boxtune.evaluation.summary import print_metrics

    metrics = score_files(annotations, predictions)
    if json:
        typer.echo(json_module.dumps(metrics.to_dict(), indent=2))
    else:
        print_metrics(metrics, str(predictions), Console())
