"""`boxtune predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boxtune.cli.options import BatchSize, Decoder, Device, Engine, FreeLabels, Labels, Model, OutputDir, Quantize


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
    engine: Engine = "own",
) -> None:
    """Find objects in pictures: writes each with its boxes drawn, and predictions.json.

    Several processes (torchrun -m boxtune predict …) share the pictures.
    """
    from rich.console import Console

    from boxtune import processes
    from boxtune.cli.options import claim_shared_output_dir, open_detector, split_labels
    from boxtune.console import say
    from boxtune.inference.predict import find_images, predict_images

    with processes.joined():
        claim_shared_output_dir(output_dir)
        aside = Console(stderr=True, quiet=not processes.is_first())
        paths = find_images(image)
        asking = {"labels": split_labels(labels), "batch_size": batch_size, "num_candidates": 0}
        asking |= {"decoder": decoder, "free_labels": free_labels}
        detector = open_detector(engine, model, device=device, quantize=quantize, **asking)
        if note := detector.untaught_labels:
            say(aside, note)
        coco_root = (image if image.is_dir() else image.parent) if coco else None
        written: dict[str, Any] = {"min_score": min_score, "console": aside, "shared": True, "coco_root": coco_root}
        num_boxes = predict_images(detector, paths, output_dir, **written)
    looked_for = ", ".join(detector.labels)
    say(
        Console(quiet=not processes.is_first()),
        f"Looked for {looked_for}. Boxes: {num_boxes}, pictures: {len(paths)}; written to {output_dir}",
    )


def _on_ray(
    model: str, image: Path, output_dir: Path, asking: dict[str, Any], device: str, workers: int | None, coco: bool
) -> None:
    """Boxes of many pictures, shard by shard; what an earlier run of the same command has done is kept."""
    require_extra("ray", "ray")
    from rich.console import Console
    from rich.progress import Progress

    from boxtune import processes
    from boxtune.cli.options import check_writable, split_labels
    from boxtune.console import say
    from boxtune.inference.coco_dataset import COCO_FILE, write_coco_dataset
    from boxtune.inference.ray_engine import do_on_ray
    from boxtune.inference.shards import FoundPictures, asked_of, begin_or_go_on, count_found
    from boxtune.models.load import check_model

    if processes.count() > 1:
        raise ConfigError("--engine ray has workers of its own: give the command without torchrun.")
    names = split_labels(asking["labels"])
    contract = check_model(model)
    if names is None and not (contract and contract.labels):
        raise ConfigError("No labels to look for: this model was saved with none, name them with --labels a,b.")
    check_writable(output_dir)
    asked = asked_of(model, image, **{**asking, "labels": None if names is None else tuple(names)})
    work = begin_or_go_on(output_dir, asked)
    missing, console = work.missing, Console(stderr=True)
    if len(missing) < work.num_shards:
        say(console, f"{work.num_shards - len(missing)} of {work.num_shards} shards were done before and are kept.")
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("predict", total=len(missing) * asked.shard_size)
        for num_pictures in do_on_ray(work, missing, device=device, num_workers=workers) if missing else ():
            progress.advance(bar, num_pictures)
    counts = count_found(work)
    if coco:
        write_coco_dataset(output_dir / COCO_FILE, FoundPictures(work), names or contract.labels)
    for status, what in (("malformed", "answers could not be read"), ("unreadable", "pictures could not be read")):
        if counts[status]:
            say(console, f"{counts[status]} of {work.num_pictures} {what} and gave no box.")
    say(Console(), f"Boxes: {counts['boxes']}, pictures: {work.num_pictures}; written to {output_dir}")
