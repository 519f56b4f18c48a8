"""A head in a folder: its configuration as JSON, its weights as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from boxtune.documents import parse_json
from boxtune.errors import ModelError
from boxtune.models.detection_head.config import DetectionHeadConfig, reads_within
from boxtune.models.detection_head.head import DetectionHead

CONFIG_FILE = "detection_head.json"
WEIGHTS_FILE = "detection_head.safetensors"
_VERSION = 1


def save_head(head: DetectionHead, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write both files into a folder; the language model's embedding is not among the weights.

    Args:
        head: to save.
        folder: is made where it is missing.
        weights: of the head, where its own are divided among processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"version": _VERSION, **asdict(head.config)}, indent=2)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    save_file(
        {name: tensor.contiguous() for name, tensor in (weights or head.state_dict()).items()}, folder / WEIGHTS_FILE
    )


def has_head(folder: Path) -> bool:
    """Whether a folder holds a head."""
    return (folder / CONFIG_FILE).is_file()


def load_head(
    folder: Path, text_config: Any, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> DetectionHead:
    """The head of a folder, in evaluation mode.

    Args:
        folder: that `save_head` wrote to.
        text_config: of the language model that it is to work with.
        device, dtype: of its weights.

    Raises:
        ModelError: no head, one of another version, for another model, or weights that do not fit its configuration.
    """
    config = read_head_config(folder)
    trained = (config.hidden_size, config.vocab_size)
    given = (text_config.hidden_size, text_config.vocab_size)
    if trained != given:
        raise ModelError(
            f"The detection head in {folder} belongs to a model of width {trained[0]} with {trained[1]} tokens, this "
            f"one has width {given[0]} and {given[1]}: load it with the model that it was trained with."
        )
    if not reads_within(config, text_config):
        raise ModelError(
            f"The detection head in {folder} reads {config.language_layers} layers of a language model, this one has "
            f"{text_config.num_hidden_layers}: load it with the model that it was trained with."
        )
    head = DetectionHead(config)
    path = folder / WEIGHTS_FILE
    try:
        head.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read ({error}): copy the folder again.") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{path} does not fit {CONFIG_FILE} beside it: copy both from one folder. ({reason})"
        ) from None
    return head.to(device, dtype).eval()


def read_head_config(folder: Path) -> DetectionHeadConfig:
    """The configuration of a folder's head.

    Raises:
        ModelError: not there, not readable, or of another version.
    """
    path = folder / CONFIG_FILE
    try:
        fields = parse_json(path.read_bytes())
        if (version := fields.pop("version")) != _VERSION:
            raise ModelError(f"{path} has version {version}; this boxtune reads version {_VERSION}: update boxtune.")
        return DetectionHeadConfig(**fields)
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no detection head ({CONFIG_FILE}): train one, or name its folder.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} cannot be read ({error}): copy it again.") from None
