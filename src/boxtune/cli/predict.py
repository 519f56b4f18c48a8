"""`boxtune predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

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
    OnError,
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
    on_error: OnError = "refuse",
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
        ray: dict[str, Any] = {"device": device, "workers": workers, "coco": coco, "on_error": on_error}
        _predict_on_ray(model, image, output_dir, labels, **ray, **asking)
        return
    if workers is not None or shard_size is not None:
        raise ConfigError("--workers and --shard-size say how --ray works: add it, or leave them out.")
    from rich.console import Console

    from boxtune import processes
    from boxtune.cli.options import claim_shared_output_dir, open_detector, split_labels
    from boxtune.console import say
    from boxtune.inference.pictures import passed_by, readable_images, summary

    with processes.joined():
        claim_shared_output_dir(output_dir)
        aside = Console(stderr=True, quiet=not processes.is_first())
        paths, bad = readable_images(image, on_error, aside)
        # these import torch: what is wrong with the pictures is said before
        from boxtune.inference.examples import check_examples, examples_note, open_examples
        from boxtune.inference.predict import predict_images

        asking = {"labels": split_labels(labels), "batch_size": batch_size, "num_candidates": 0}
        asking |= {"decoder": decoder, "free_labels": free_labels}
        shown = open_examples(examples, examples_from)
        detector = open_detector(engine, model, device=device, quantize=quantize, examples=shown, **asking)
        check_examples(shown, detector.labels)
        others = passed_by(image) if processes.is_first() else None
        for note in filter(None, (others, detector.untaught_labels, examples_note(detector))):
            say(aside, note)
        coco_root = (image if image.is_dir() else image.parent) if coco else None
        written: dict[str, Any] = {"min_score": min_score, "console": aside, "shared": True, "coco_root": coco_root}
        found = predict_images(detector, paths, output_dir, on_error=on_error, bad=bad, **written)
    said = summary(output_dir, detector.labels, found.num_boxes, found.num_pictures, len(found.bad))
    say(Console(quiet=not processes.is_first()), said)


def _predict_on_ray(
    model: str,
    image: Path,
    output_dir: Path,
    labels: str | None,
    *,
    device: str,
    workers: int | None,
    coco: bool,
    on_error: Literal["refuse", "skip"],
    **asking: Any,
) -> None:
    """Boxes of many pictures, shard by shard; what an earlier run of the same command has done is kept."""
    from rich.console import Console
    from rich.progress import Progress

    from boxtune import processes
    from boxtune.cli.options import check_writable, require_extra, split_labels, tell_of_packed_base
    from boxtune.console import say
    from boxtune.inference.coco_dataset import COCO_FILE, write_coco_dataset
    from boxtune.inference.pictures import refuse, summary, write_left_out
    from boxtune.inference.prediction import asked_labels
    from boxtune.inference.ray_engine import do_on_ray
    from boxtune.inference.shards import FoundPictures, asked_of, bad_pictures, begin_or_go_on, count_found
    from boxtune.models.load import check_model

    require_extra("ray", "ray")
    if processes.count() > 1:
        raise ConfigError("--ray has workers of its own: give the command without torchrun.")
    contract = check_model(model)
    names = asked_labels(split_labels(labels), contract.labels if contract else ())
    check_writable(output_dir)
    aside = Console(stderr=True)
    work = begin_or_go_on(output_dir, asked_of(model, image, labels=names, **asking), on_error, aside)
    if contract is not None:
        tell_of_packed_base(contract.quantized_base, asking["quantize"])
    missing = work.missing
    if len(missing) < work.num_shards:
        say(aside, f"{work.num_shards - len(missing)} of {work.num_shards} shards were done before and are kept.")
    running: dict[str, Any] = {"device": device, "num_workers": workers, "on_error": on_error}
    with Progress(console=aside, disable=not aside.is_terminal) as progress:
        bar = progress.add_task("predict", total=len(missing) * work.asked.shard_size)
        for num_done in do_on_ray(work, missing, **running) if missing else ():
            progress.advance(bar, num_done)
    counts, bad = count_found(work), bad_pictures(work)
    num_pictures = work.num_pictures - len(bad)
    if coco:
        write_coco_dataset(output_dir / COCO_FILE, FoundPictures(work), names)
    if on_error == "skip" or bad:
        write_left_out(output_dir, bad)
    if not num_pictures:
        refuse(bad, len(bad))
    if counts["malformed"]:
        say(aside, f"{counts['malformed']} of {num_pictures} answers could not be read and gave no box.")
    say(Console(), summary(output_dir, names, counts["boxes"], num_pictures, len(bad)))
