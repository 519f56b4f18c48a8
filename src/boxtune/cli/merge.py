"""`boxtune merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from boxtune.cli.options import OutputDir


def command(
    adapter: Annotated[Path, typer.Option("--adapter", help="Folder of a LoRA run, or of a head trained alone.")],
    output_dir: OutputDir,
    base: Annotated[
        Literal["auto", "dequantized", "original"],
        typer.Option("--base", help="Of an adapter trained on 4 bits: the rounded weights (auto), or the original."),
    ] = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--dtype", help="Of the written weights.")
    ] = "float32",
) -> None:
    """Fold an adapter into its base model, or put a head beside it; says done only when both give the same logits.

    The folder is a plain checkpoint: transformers and what is built on it open it.
    """
    import torch
    from rich.console import Console

    from boxtune.console import say
    from boxtune.models.merge import merge_adapter

    difference = merge_adapter(adapter, output_dir, base=base, dtype=getattr(torch, dtype))
    say(Console(), f"Merged into {output_dir}; largest difference of logits {difference:.1e} of the largest logit.")
