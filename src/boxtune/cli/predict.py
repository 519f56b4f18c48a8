"""`boxtune predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boxtune.cli.options import (
    BatchSize,
    Decoder,
    Device,
    Engine,
    Examples,
    ExamplesFrom,
    FreeLabels,
    Labels,
    Model,
    OutputDir,
    Quantize,
)
from boxtune.errors import ConfigError


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
    examples: Examples = 0,
    examples_from: ExamplesFrom = None,
    coco: Annotated[
        bool, typer.Option("--coco", help="Also write coco.json, a COCO data set with scores, as FiftyOne reads it.")
    ] = False,
    on_ray: Annotated[
        bool,
        typer.Option("--ray", help="For millions of pictures, on Ray: boxes only, in shards; goes on where it was."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="With --ray: how many look at once; one a GPU if not given.")
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option("--shard-size", min=1, help="With --ray: pictures a shard; 1000 if not given.")
    ] = None,
) -> None:
    """Find objects in pictures: writes each with its boxes drawn, and predictions.json.

    Several processes (torchrun -m boxtune predict …) share the pictures.
    """
    if on_ray:
        if engine != "own":
            raise ConfigError(f"--engine {engine} does not go with --ray, whose workers run the model. Leave one out.")
        if examples or examples_from is not None:
            raise ConfigError("--examples does not go with --ray, which asks about each picture alone. Leave one out.")
        asking: dict[str, Any] = {"decoder": decoder, "free_labels": free_labels, "quantize": quantize}
        asking |= {"batch_size": batch_size, "min_score": min_score, "shard_size": shard_size or 1000}
        _predict_on_ray(model, image, output_dir, labels, device=device, workers=workers, coco=coco, **asking)
        return
    if workers is not None or shard_size is not None:
        raise ConfigError("--workers and --shard-size say how --ray works: add it, or leave them out.")
    from rich.console import Console

    from boxtune import processes
    from boxtune.cli.options import claim_shared_output_dir, open_detector, split_labels
    from boxtune.console import say
    from boxtune.inference.examples import check_examples, examples_note, open_examples
    from boxtune.inference.predict import find_images, predict_images

    with processes.joined():
        claim_shared_output_dir(output_dir)
        aside = Console(stderr=True, quiet=not processes.is_first())
        paths = find_images(image)
        asking = {"labels": split_labels(labels), "batch_size": batch_size, "num_candidates": 0}
        asking |= {"decoder": decoder, "free_labels": free_labels}
        shown = open_examples(examples, examples_from)
        detector = open_detector(engine, model, device=device, quantize=quantize, examples=shown, **asking)
        check_examples(shown, detector.labels)
        for note in filter(None, (detector.untaught_labels, examples_note(detector))):
            say(aside, note)
        coco_root = (image if image.is_dir() else image.parent) if coco else None
        written: dict[str, Any] = {"min_score": min_score, "console": aside, "shared": True, "coco_root": coco_root}
        num_boxes = predict_images(detector, paths, output_dir, **written)
    looked_for = ", ".join(detector.labels)
    say(
        Console(quiet=not processes.is_first()),
        f"Looked for {looked_for}. Boxes: {num_boxes}, pictures: {len(paths)}; written to {output_dir}",
    )


def _predict_on_ray(
    model: str,
    image: Path,
    output_dir: Path,
    labels: str | None,
    *,
    device: str,
    workers: int | None,
    coco: bool,
    **asking: Any,
) -> None:
    """Boxes of many pictures, shard by shard; what an earlier run of the same command has done is kept."""
    from rich.console import Console
    from rich.progress import Progress

    from boxtune import processes
    from boxtune.cli.options import check_writable, require_extra, split_labels, tell_of_packed_base
    from boxtune.console import say
    from boxtune.inference.coco_dataset import COCO_FILE, write_coco_dataset
    from boxtune.inference.ray_engine import do_on_ray
    from boxtune.inference.shards import FoundPictures, asked_of, begin_or_go_on, count_found
    from boxtune.models.load import check_model

    require_extra("ray", "ray")
    if processes.count() > 1:
        raise ConfigError("--ray has workers of its own: give the command without torchrun.")
    contract = check_model(model)
    names = tuple(split_labels(labels) or (contract.labels if contract else ()))
    if not names:
        raise ConfigError("No labels to look for: this model was saved with none, name them with --labels a,b.")
    check_writable(output_dir)
    work = begin_or_go_on(output_dir, asked_of(model, image, labels=names, **asking))
    if contract is not None:
        tell_of_packed_base(contract.quantized_base, asking["quantize"])
    missing, aside = work.missing, Console(stderr=True)
    if len(missing) < work.num_shards:
        say(aside, f"{work.num_shards - len(missing)} of {work.num_shards} shards were done before and are kept.")
    with Progress(console=aside, disable=not aside.is_terminal) as progress:
        bar = progress.add_task("predict", total=len(missing) * work.asked.shard_size)
        for num_pictures in do_on_ray(work, missing, device=device, num_workers=workers) if missing else ():
            progress.advance(bar, num_pictures)
    counts = count_found(work)
    if coco:
        write_coco_dataset(output_dir / COCO_FILE, FoundPictures(work), names)
    for status, what in (("malformed", "answers could not be read"), ("unreadable", "pictures could not be read")):
        if counts[status]:
            say(aside, f"{counts[status]} of {work.num_pictures} {what} and gave no box.")
    looked_for = ", ".join(names)
    said = f"Looked for {looked_for}. Boxes: {counts['boxes']}, pictures: {work.num_pictures}; written to {output_dir}"
    say(Console(), said)
