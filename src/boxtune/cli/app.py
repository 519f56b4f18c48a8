"""`boxtune app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxtune.cli.options import Device, Format, Host, MaxMegapixels, MaxUploadMb, Port, Quantize, require_extra


def command(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Folder, hub id, adapter folder, `embedded` or `tiny:FAMILY`; may be repeated."),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="A folder of runs: its models and reports can be chosen.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Pictures to pick from: folder, file, hub id or synthetic:NAME.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of --data; all of it if not given.")] = None,
    data_format: Format = None,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    max_upload_mb: MaxUploadMb = 20.0,
    max_megapixels: MaxMegapixels = 50.0,
    device: Device = "auto",
    quantize: Quantize = "none",
) -> None:
    """Try models in the browser: drop photos, see boxes, compare two models, look at reports. Ctrl-C ends it."""
    require_extra("app", "gradio", "fastapi", "uvicorn")
    import logging
    import tempfile
    from functools import partial

    from rich.console import Console

    from boxtune.app.asking import Models
    from boxtune.app.catalogue import open_catalogue
    from boxtune.app.handlers import Handlers
    from boxtune.app.site import build_site
    from boxtune.console import say
    from boxtune.data.dataset import load_dataset
    from boxtune.errors import ConfigError
    from boxtune.inference.detector import load_detector
    from boxtune.inference.uploads import UploadLimits
    from boxtune.serve.listening import address_of, listen, run_until_stopped, warning_of_host

    if data is None and (split is not None or data_format is not None):
        raise ConfigError("--split and --format are about a data set: name it with --data.")
    catalogue = open_catalogue(model or ["embedded"], runs)
    dataset = None if data is None else load_dataset(data, split, data_format)
    listening = listen(host, port)
    if warning := warning_of_host(host):
        say(Console(stderr=True), warning)
    limits = UploadLimits.of_options(max_upload_mb, max_megapixels)
    models = Models(lambda name: load_detector(name, device, quantize=quantize))
    with tempfile.TemporaryDirectory(prefix="boxtune-app-") as folder:
        handlers = Handlers(catalogue, models, dataset, limits, Path(folder))
        site = build_site(handlers, host)
        say(Console(), f"Open {address_of(listening)} in a browser; Ctrl-C ends it.")
        # pages that are still open hold connections; that they are cut off is no news
        quiet = partial(logging.getLogger("uvicorn.error").setLevel, logging.CRITICAL)
        run_until_stopped(site, listening, on_stop=quiet, max_seconds_to_stop=3)
