"""Options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boxtune.data.sample import Sample
    from boxtune.inference.prediction import AnyDetector

Data = Annotated[str, typer.Option("--data", help="Folder, file, hub id or synthetic:NAME.")]
Model = Annotated[str, typer.Option("--model", help="Folder, hub id, adapter folder, `embedded` or `tiny:FAMILY`.")]
OutputDir = Annotated[Path, typer.Option("--output-dir", help="Where results are written.")]
DataFormat = Literal["coco", "yolo", "voc", "jsonl", "hub"]
Format = Annotated[
    DataFormat | None,
    typer.Option("--format", help="coco, yolo, voc, jsonl or hub; found out by looking if not given."),
]
OnError = Annotated[
    Literal["refuse", "skip"],
    typer.Option("--on-error", help="Bad records or pictures: refuse, or skip and list in skipped.jsonl."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 …")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images a forward pass.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE ...]", help="Settings, e.g. adapter.language=lora.")
]
Quantize = Annotated[
    Literal["none", "nf4"], typer.Option("--quantize", help="nf4: the language model in 4 bits, as r1 and r4 train it.")
]
Decoder = Annotated[
    Literal["text", "head", "both"],
    typer.Option("--decoder", help="Who names the boxes: the text, the detection head in one pass, or both, fused."),
]
FreeLabels = Annotated[
    bool,
    typer.Option("--free-labels", help="The detection head writes labels, instead of choosing among those asked for."),
]
Engine = Annotated[
    Literal["own", "vllm"],
    typer.Option("--engine", help="Who runs the model; vllm where it is installed: a merged model, text only."),
]
Examples = Annotated[
    int, typer.Option("--examples", min=0, help="Images that are shown with their answers before each question.")
]
ExamplesFrom = Annotated[
    str | None, typer.Option("--examples-from", help="Data set whose train split the examples are taken from.")
]
Labels = Annotated[str | None, typer.Option("--labels", help="Names to look for, with commas: a,b.")]
Host = Annotated[str, typer.Option("--host", help="Where to listen; any other than 127.0.0.1 lets other machines in.")]
MaxUploadMb = Annotated[float, typer.Option("--max-upload-mb", min=0.001, help="Largest picture's file, in MB.")]
MaxMegapixels = Annotated[
    float, typer.Option("--max-megapixels", min=0.001, max=89, help="Largest picture, in millions of pixels.")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")]


def split_labels(labels: str | None) -> list[str] | None:
    """`"a, b"` → `["a", "b"]`.

    Raises:
        ConfigError: nothing is named.
    """
    if labels is None:
        return None
    names = [label.strip() for label in labels.split(",") if label.strip()]
    if not names:
        from boxtune.errors import ConfigError

        raise ConfigError(f"--labels '{labels}' names nothing: write them with commas, a,b, or leave --labels out.")
    try:
        labels.encode()
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8
        from boxtune.errors import ConfigError

        raise ConfigError(f"--labels {labels!a} is not UTF-8 text: write the names anew.") from None
    return names


def require_extra(extra: str, *modules: str) -> None:
    """Refuse a command whose packages are not installed.

    Args:
        extra: of pyproject.toml, that has them.
        modules: their import names.

    Raises:
        ConfigError: one is missing; says how to install it.
    """
    import importlib.util

    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        from boxtune.errors import ConfigError

        raise ConfigError(f"{', '.join(missing)} is not installed: pip install 'boxtune[{extra}]' brings it.")


def claim_output_dir(folder: Path) -> None:
    """Refuse a folder that holds something or cannot be written to, before any work; nothing is made yet.

    Raises:
        ConfigError: not empty.
        SaveError: nothing can be written there.
    """
    from boxtune.errors import ConfigError

    check_writable(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not an empty folder: choose another --output-dir, nothing is written over.")


def claim_shared_output_dir(folder: Path) -> None:
    """As `claim_output_dir`, for processes that share a folder: the first one looks, before another has written to it.

    Raises:
        BoxtuneError: in all processes, as `claim_output_dir`.
    """
    from boxtune import processes

    processes.of_all(lambda: claim_output_dir(folder) if processes.is_first() else None)


def check_writable(folder: Path) -> None:
    """Try out whether a folder can be written to, or made where it is missing; leaves nothing behind.

    Raises:
        SaveError: it cannot, or is no folder.
    """
    import tempfile

    from boxtune.errors import SaveError

    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise SaveError(f"{nearest} is a file: choose another --output-dir.")
    try:
        with tempfile.TemporaryDirectory(dir=nearest):  # rights alone do not tell: a disk may be read-only or full
            pass
    except OSError as error:
        raise SaveError(f"{folder} cannot be written: {error.strerror}. Choose another --output-dir.") from None


def open_detector(
    engine: Literal["own", "vllm"],
    model: str,
    *,
    device: str,
    quantize: Literal["none", "nf4"],
    decoder: Literal["text", "head", "both"],
    free_labels: bool,
    num_candidates: int,
    examples: Sequence[Sample] = (),
    **asking: Any,
) -> AnyDetector:
    """The detector that a command asks; says what its user must know of it.

    Args:
        engine: who runs the model.
        model: name of the model.
        device, quantize, decoder, free_labels, num_candidates: as the options of this name.
        examples: shown before each question.
        asking: of both kinds of detector.

    Raises:
        BoxtuneError: see `load_detector` and `load_vllm_detector`; an option that vLLM cannot follow.
    """
    from boxtune import processes
    from boxtune.inference.detector import load_detector

    if engine == "own":
        asking |= {"decoder": decoder, "free_labels": free_labels, "num_candidates": num_candidates}
        detector = load_detector(model, device, quantize=quantize, examples=examples, **asking)
        if processes.is_first():
            tell_of_packed_base(detector.loaded.contract.quantized_base, quantize)
            _tell_of_untrained_text(detector.loaded.contract.base_of_head, decoder)
        return detector
    _check_for_vllm(device, quantize, decoder, free_labels, len(examples))
    from boxtune.inference.vllm_engine import load_vllm_detector

    if num_candidates:
        typer.echo("vLLM names no boxes after the end of an answer: AP is that of --candidates 0.", err=True)
    return load_vllm_detector(model, **asking)


def _check_for_vllm(device: str, quantize: str, decoder: str, free_labels: bool, num_examples: int) -> None:
    from boxtune import processes
    from boxtune.errors import ConfigError

    refused = {
        "--device": (device != "auto", "vLLM chooses for itself, CUDA_VISIBLE_DEVICES tells it among which"),
        "--examples": (num_examples > 0, "it is asked one image at a time"),
        "--quantize": (quantize != "none", "vLLM takes the weights as they are"),
        "--decoder": (decoder != "text", "vLLM runs no detection head"),
        "--free-labels": (free_labels, "vLLM runs no detection head"),
        "torchrun": (processes.count() > 1, "vLLM starts its own processes"),
    }
    for option, (is_asked, reason) in refused.items():
        if is_asked:
            raise ConfigError(f"{option} does not go with --engine vllm: {reason}. Leave one of the two out.")


def _tell_of_untrained_text(base_of_head: dict[str, str] | None, decoder: str) -> None:
    """Say so when the text is asked of a folder in which the head alone was trained."""
    if base_of_head is not None and decoder == "text":
        typer.echo(
            f"The text is that of {base_of_head['name']}: only the detection head was trained here. "
            "--decoder head asks it.",
            err=True,
        )


def tell_of_packed_base(quantized_base: dict[str, str] | None, quantize: str) -> None:
    """Say so when an adapter answers on other weights than it was trained on."""
    if quantized_base is not None and quantize == "none":
        typer.echo(
            "This adapter was trained on its base in 4 bits and is used on the unpacked one: close, but not the same. "
            "--quantize nf4 uses it as it was trained.",
            err=True,
        )
