"""`boxtune convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from boxtune.cli.options import Data, Format, OnError, OutputDir

_FORMATS = ("coco", "yolo", "voc", "jsonl")


def command(
    data: Data,
    to: Annotated[str, typer.Option("--to", help="coco, yolo, voc or jsonl.")],
    output_dir: OutputDir,
    data_format: Format = None,
    on_error: OnError = "refuse",
) -> None:
    """Write a data set in another format; images are copied, every split is kept."""
    from rich.console import Console

    from boxtune.cli.options import checked_choice
    from boxtune.data.convert import convert_dataset

    checked_choice("to", to, _FORMATS)
    checked_choice("format", data_format, (*_FORMATS, "hub"))
    checked_choice("on-error", on_error, ("refuse", "skip"))
    written = convert_dataset(data, to, output_dir, format=data_format, on_error=on_error)
    counts = ", ".join(f"{split}: {count} images" for split, count in written.items())
    Console().print(f"{counts}; written to {output_dir} as {to}", highlight=False, soft_wrap=True)
