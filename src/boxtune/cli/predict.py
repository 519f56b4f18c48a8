"""`boxtune predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxtune.cli.options import BatchSize, Device, Labels, Model, OutputDir


def command(
    model: Model,
    image: Annotated[Path, typer.Option("--image", help="A picture, or a folder of pictures.")],
    output_dir: OutputDir,
    labels: Labels = None,
    min_score: Annotated[float, typer.Option("--min-score", min=0, max=1, help="Leave out boxes below.")] = 0.0,
    batch_size: BatchSize = 8,
    device: Device = "auto",
) -> None:
    """Find objects in pictures: writes each with its boxes drawn, and predictions.json."""
    from rich.console import Console

    from boxtune.cli.options import claim_output_dir, split_labels
    from boxtune.inference.detector import load_detector
    from boxtune.inference.predict import find_images, predict_images

    claim_output_dir(output_dir)
    paths = find_images(image)
    detector = load_detector(model, device, labels=split_labels(labels), batch_size=batch_size)
    num_boxes = predict_images(detector, paths, output_dir, min_score=min_score, console=Console(stderr=True))
    Console().print(f"{num_boxes} boxes in {len(paths)} pictures, written to {output_dir}", soft_wrap=True)
