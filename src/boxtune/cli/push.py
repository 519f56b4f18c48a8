"""`boxtune push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Argument(help="Of a finished run, or of boxtune merge.", metavar="FOLDER")],
    to: Annotated[str, typer.Option("--to", help="Its name on the hub: owner/name.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is seen by its owner only.")] = False,
    license_id: Annotated[
        str | None, typer.Option("--license", help="As the hub writes it, e.g. apache-2.0; left open if not given.")
    ] = None,
    license_name: Annotated[
        str | None, typer.Option("--license-name", help="With --license other: what it is called.")
    ] = None,
    license_link: Annotated[
        str | None, typer.Option("--license-link", help="With --license other: address of its text.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option("--card", help="A model card of your own, instead of the one made from the run.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and print the card; nothing leaves this machine.")
    ] = False,
) -> None:
    """Put a trained model on the Hugging Face hub, with a model card filled from the run."""
    from rich.console import Console

    from boxtune.console import say
    from boxtune.errors import ConfigError
    from boxtune.publishing.card import model_card
    from boxtune.publishing.files import files_of_model
    from boxtune.publishing.licence import licence_of
    from boxtune.publishing.push import check_repo_id, push_model

    licence = licence_of(license_id, license_name, license_link)
    if card is not None and licence is not None:
        raise ConfigError("--license is for the card that is made here: write it into your own, or leave --card out.")
    check_repo_id(to)
    files = files_of_model(folder)
    if card is not None and not card.is_file():
        raise ConfigError(f"There is no card at {card}: check --card.")
    text = model_card(folder, to, licence) if card is None else card.read_text(encoding="utf-8")
    console = Console()
    if dry_run:
        for path in files:
            say(console, f"{path.stat().st_size:>15,} bytes  {path.name}")
        say(console, f"{len(text.encode()):>15,} bytes  README.md\n\n{text}")
        return
    address = push_model(files, text, to, private=private)
    say(console, f"{len(files) + 1} files are at {address}")
