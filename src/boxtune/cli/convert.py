"""`boxtune convert`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from boxtune.cli.options import Data, Format, OnError, OutputDir


def command(
    data: Data,
    to: Annotated[Literal["coco", "yolo", "voc", "jsonl"], typer.Option("--to", help="The format to write.")],
    output_dir: OutputDir,
    data_format: Format = None,
    on_error: OnError = "refuse",
) -> None:
    """Write a data set in another format; images are copied, every split is kept."""
    from rich.console import Console

    from boxtune.console import say
    from boxtune.data.convert import convert_dataset

    skipped = output_dir.with_name(output_dir.name + ".skipped.jsonl") if on_error == "skip" else None
    done = convert_dataset(data, to, output_dir, format=data_format, on_error=on_error, skipped_path=skipped)
    counts = ", ".join(f"{split}: {count} images" for split, count in done.num_images.items())
    left_out = f"; {len(done.skipped)} records left out, see {skipped}" if done.skipped else ""
    say(Console(), f"{counts}{left_out}; written to {output_dir} as {to}")
