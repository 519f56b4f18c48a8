"""`boxtune predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boxtune.cli.options import BatchSize, Decoder, Device, FreeLabels, Labels, Model, OutputDir, Quantize


def command(
    model: Model,
    image: Annotated[Path, typer.Option("--image", help="A picture, or a folder of pictures.")],
    output_dir: OutputDir,
    labels: Labels = None,
    min_score: Annotated[float, typer.Option("--min-score", min=0, max=1, help="Leave out boxes below.")] = 0.0,
    decoder: Decoder = "text",
    free_labels: FreeLabels = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    quantize: Quantize = "none",
) -> None:
    """Find objects in pictures: writes each with its boxes drawn, and predictions.json.

    Several processes (torchrun -m boxtune predict …) share the pictures.
    """
    from rich.console import Console

    from boxtune import processes
    from boxtune.cli.options import claim_shared_output_dir, split_labels, tell_of_packed_base
    from boxtune.console import say
    from boxtune.inference.detector import load_detector
    from boxtune.inference.predict import find_images, predict_images

    with processes.joined():
        claim_shared_output_dir(output_dir)
        aside = Console(stderr=True, quiet=not processes.is_first())
        paths = find_images(image)
        asking: dict[str, Any] = {"labels": split_labels(labels), "batch_size": batch_size, "num_candidates": 0}
        asking |= {"decoder": decoder, "free_labels": free_labels}
        detector = load_detector(model, device, quantize=quantize, **asking)
        if processes.is_first():
            tell_of_packed_base(detector.loaded.contract.quantized_base, quantize)
        if note := detector.untaught_labels:
            say(aside, note)
        num_boxes = predict_images(detector, paths, output_dir, min_score=min_score, console=aside, shared=True)
    looked_for = ", ".join(detector.labels)
    say(
        Console(quiet=not processes.is_first()),
        f"Looked for {looked_for}. Boxes: {num_boxes}, pictures: {len(paths)}; written to {output_dir}",
    )
