"""`boxtune serve`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from boxtune.cli.options import (
    BatchSize,
    Decoder,
    Device,
    Host,
    Labels,
    MaxMegapixels,
    MaxUploadMb,
    Model,
    Port,
    Quantize,
    require_extra,
)


def command(
    model: Model = "embedded",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    labels: Labels = None,
    decoder: Decoder = "text",
    batch_size: BatchSize = 8,
    max_wait_ms: Annotated[
        float, typer.Option("--max-wait-ms", min=0, max=10_000, help="How long a picture waits for others to join it.")
    ] = 20.0,
    max_requests: Annotated[
        int, typer.Option("--max-requests", min=1, help="Taken in at once, waiting or at work; more are answered 429.")
    ] = 128,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds that a request may take; then it is answered 504.")
    ] = 120.0,
    max_upload_mb: MaxUploadMb = 20.0,
    max_megapixels: MaxMegapixels = 50.0,
    device: Device = "auto",
    quantize: Quantize = "none",
) -> None:
    """Answer pictures over HTTP: POST /detect, GET /health, GET /metrics, and /docs. SIGTERM or Ctrl-C ends it."""
    require_extra("serve", "fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "uvicorn")
    from rich.console import Console

    from boxtune.cli.options import split_labels, tell_of_packed_base
    from boxtune.console import say
    from boxtune.inference.detector import load_detector
    from boxtune.inference.uploads import UploadLimits
    from boxtune.serve.listening import address_of, listen, run_until_stopped, warning_of_host
    from boxtune.serve.service import ServeOptions, build_service

    asked = split_labels(labels)
    listening = listen(host, port)
    if warning := warning_of_host(host):
        say(Console(stderr=True), warning)
    asking: dict[str, Any] = {"labels": asked, "batch_size": batch_size, "num_candidates": 0, "decoder": decoder}
    detector = load_detector(model, device, quantize=quantize, **asking)
    tell_of_packed_base(detector.loaded.contract.quantized_base, quantize)
    limits = UploadLimits.of_options(max_upload_mb, max_megapixels)
    app = build_service(detector, model, ServeOptions(max_wait_ms / 1000, max_requests, timeout, limits))
    address = address_of(listening)
    say(Console(), f"{model} answers at {address}/detect; how to ask it: {address}/docs")
    run_until_stopped(app, listening, on_stop=app.state.batcher.close, max_seconds_to_stop=timeout + 5)
    say(Console(), "Stopped; all that was taken in is answered.")
