"""`boxtune merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxtune.cli.options import OutputDir


def command(
    adapter: Annotated[Path, typer.Option("--adapter", help="Folder of a LoRA run.")],
    output_dir: OutputDir,
) -> None:
    """Fold an adapter into its base model; says done only when both give the same logits."""
    from rich.console import Console

    from boxtune.models.merge import merge_adapter

    difference = merge_adapter(adapter, output_dir)
    Console().print(
        f"Merged into {output_dir}; largest difference of logits {difference:.1e} of the largest logit.",
        highlight=False,
        soft_wrap=True,
    )
