"""`boxtune calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxtune.cli.options import BatchSize, Data, Device, Format, OnError, Quantize


def command(
    model: Annotated[str, typer.Option("--model", help="Folder of a model or adapter; it gets calibration.json.")],
    data: Data,
    split: Annotated[
        str | None, typer.Option("--split", help="Where to take images from; train where there are splits.")
    ] = None,
    max_images: Annotated[int, typer.Option("--max-images", min=2, help="The last so many of them.")] = 200,
    data_format: Format = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    quantize: Quantize = "none",
    on_error: OnError = "refuse",
) -> None:
    """Make a model's scores mean what they say: of boxes scored 0.8, eight of ten right.

    Take images that the model was not trained on, and not those that it is judged on either: train with
    data.max_train_images=N, so that the last ones of the train split stay free.
    """
    from rich.console import Console

    from boxtune.console import say
    from boxtune.data.dataset import available_splits
    from boxtune.data.splits import UNSPLIT
    from boxtune.errors import ConfigError
    from boxtune.evaluation.calibrate import fit_calibrator, seen_in_training
    from boxtune.evaluation.evaluate import evaluate, open_judged
    from boxtune.inference.calibrator import FILE_NAME
    from boxtune.inference.detector import load_detector

    folder, console, said = Path(model), Console(), Console(stderr=True)
    if not folder.is_dir():
        raise ConfigError(
            f"--model {model} is no folder: calibration.json needs one, train or merge the model into it."
        )
    if (folder / FILE_NAME).exists():
        raise ConfigError(f"{folder / FILE_NAME} is there already: remove it to fit it anew.")
    undivided = split is None and available_splits(data, data_format) == [UNSPLIT]
    samples = open_judged(
        data, None if undivided else split or "train", data_format=data_format, on_error=on_error, console=said
    )
    held = samples.subset(range(max(0, len(samples) - max_images), len(samples)))
    if warning := seen_in_training(folder, samples, len(held)):
        say(said, warning)
    detector = load_detector(model, device, batch_size=batch_size, quantize=quantize, calibrated=False)
    if not detector.labels:
        detector.labels = samples.labels
    fit = fit_calibrator(evaluate(detector, held, console=said, details=True).judged)
    errors = ", ".join(f"{kind} {error:.3f}" for kind, error in fit.ece_of_kind.items())
    say(console, f"Calibration error on images held out from the fit: {errors}.")
    if fit.calibrator is None:
        say(console, "Scores are best left as they are; nothing is written.")
        return
    fit.calibrator.save(folder)
    say(console, f"Written to {folder / FILE_NAME} ({fit.calibrator.kind}).")
