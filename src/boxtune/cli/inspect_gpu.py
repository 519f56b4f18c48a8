"""`boxtune inspect gpu`."""

from __future__ import annotations

import dataclasses
import json as json_module
from typing import Annotated

import typer


def command(json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False) -> None:
    """What this machine can do: GPUs with free memory, attention kernels, 4 bits, bf16, cores and memory."""
    from rich.console import Console

    from boxtune.inspection.machine import describe_machine, print_machine

    machine = describe_machine()
    if json:
        typer.echo(json_module.dumps(dataclasses.asdict(machine), indent=2))
    else:
        print_machine(machine, Console())
