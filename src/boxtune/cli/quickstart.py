"""`boxtune quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    output_dir: Annotated[Path, typer.Option("--output-dir", help="New or empty folder.")] = Path("runs/quickstart"),
) -> None:
    """From nothing to a fine-tuned detector and a page that shows it, in a few minutes on a laptop."""
    from rich.console import Console

    from boxtune.cli.options import claim_output_dir
    from boxtune.training.quickstart import quickstart

    claim_output_dir(output_dir)
    quickstart(output_dir, Console())
