"""A model without its weights: every module and parameter on torch's meta device, made from config.json alone.

Names, shapes and areas are those of the real model, and nothing is read or kept of its gigabytes. So a model of 72
billion parameters is looked at in seconds, on any machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from boxtune.errors import ModelError
from boxtune.models.families import Family, family
from boxtune.models.load import EMBEDDED, embedded_folder

_TINY = "tiny:"
_KNOWN_NAMES = "give a folder, a config.json, a hub id (owner/name), `embedded` or `tiny:FAMILY`"
# what transformers raises on a config.json that is lost, of another kind, or has sizes that do not fit together
_BUILDING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    StrictDataclassError,  # a size that is no number
)


@dataclass(frozen=True)
class Skeleton:
    """A model whose parameters have names, shapes and dtypes, but no values.

    Attributes:
        model: of transformers, or a PeftModel around it.
        name: as asked for.
        base: name of the model below an adapter; else the same as `name`.
    """

    model: Any
    name: str
    base: str

    @property
    def family(self) -> Family:
        """The row of the families table."""
        return family(self.model.config)

    @property
    def has_adapter(self) -> bool:
        """Whether the name was that of an adapter folder."""
        return self.base != self.name


def load_skeleton(name: str, *, trust_remote_code: bool = False) -> Skeleton:
    """The model of a name, without weights.

    Args:
        name: a folder with config.json (weights or none), a config.json, an adapter folder (its base is looked up), a
            hub id (only its config.json is fetched), `embedded`, or `tiny:FAMILY`.
        trust_remote_code: run code that comes with the model; off unless the user says so.

    Raises:
        ModelError: no such model, no config.json, another family, or sizes that make no model.
    """
    if not (Path(name) / "adapter_config.json").is_file():
        return Skeleton(_build(name, trust_remote_code), name, name)
    adapter = _adapter_config(Path(name))
    base = str(adapter.base_model_name_or_path)
    try:
        model = _build(base, trust_remote_code)
    except ModelError as error:
        raise ModelError(f"The adapter in {name} was trained on '{base}', which cannot be opened: {error}") from error
    return Skeleton(_with_adapter(model, adapter, name), name, base)


def load_processor(name: str, *, trust_remote_code: bool = False) -> Any:
    """The processor of a model, without the model.

    Args:
        name: as in `load_skeleton`, but for a bare config.json, which has none.
        trust_remote_code: run code that comes with it; off unless the user says so.

    Raises:
        ModelError: no files of a processor, or those of another family.
    """
    if name.startswith(_TINY):
        from boxtune.models.tiny import build_tiny

        return build_tiny(name.removeprefix(_TINY))[1]
    from transformers import AutoProcessor

    home = str(embedded_folder()) if name == EMBEDDED else name
    try:
        processor = AutoProcessor.from_pretrained(home, trust_remote_code=trust_remote_code)
    except _BUILDING_ERRORS as error:
        raise ModelError(f"'{name}' has no processor that can be loaded: {_one_line(error)}") from error
    if "<|image_pad|>" not in processor.tokenizer.get_vocab():  # without its files an empty tokenizer is made
        raise ModelError(f"'{name}' has no tokenizer of Qwen-VL (tokenizer.json): copy its files there.")
    return processor


def _build(name: str, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForImageTextToText

    config = _config(name, trust_remote_code)
    family(config)
    # Qwen3-VL names it only for the language model
    dtype = config.dtype or config.get_text_config().dtype or torch.float32
    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    except _BUILDING_ERRORS as error:
        raise ModelError(
            f"The config.json of '{name}' makes no {config.model_type} ({_one_line(error)}): copy it again."
        ) from error


def _config(name: str, trust_remote_code: bool) -> Any:
    if name.startswith(_TINY):
        from boxtune.models.tiny import build_tiny

        return build_tiny(name.removeprefix(_TINY))[0].config
    place = embedded_folder() if name == EMBEDDED else Path(name)
    path = place / "config.json" if place.is_dir() else place
    if place.is_dir() and not path.is_file():
        raise ModelError(f"{place} holds no config.json, so no model: give the folder that the weights lie in.")
    if path.is_file():
        _check_file(path)
    elif name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"No model at '{name}': {_KNOWN_NAMES}.")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(path) if path.is_file() else name, trust_remote_code=trust_remote_code)
    except _BUILDING_ERRORS as error:
        if path.is_file():
            raise ModelError(f"{path} cannot be read as a model's configuration: {_one_line(error)}") from error
        raise ModelError(f"No model at '{name}': {_KNOWN_NAMES}. ({_one_line(error)})") from error


def _check_file(path: Path) -> None:
    """A clear word before transformers fills in what is missing: its defaults are those of a 72B model."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}): give a model's config.json.") from None
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise ModelError(f"{path} has no model_type: give a model's config.json.")
    family(settings["model_type"])
    text = settings.get("text_config", {})
    if "hidden_size" not in settings and not (isinstance(text, dict) and "hidden_size" in text):
        raise ModelError(f"{path} says no sizes (hidden_size): copy the model's config.json again.")


def _adapter_config(folder: Path) -> Any:
    from peft import PeftConfig

    try:
        adapter = PeftConfig.from_pretrained(str(folder))
    except _BUILDING_ERRORS as error:
        path = folder / "adapter_config.json"
        raise ModelError(f"{path} is not a PEFT adapter's configuration ({_one_line(error)}).") from error
    if not adapter.base_model_name_or_path:
        raise ModelError(f"{folder / 'adapter_config.json'} names no base model (base_model_name_or_path): write it.")
    return adapter


def _with_adapter(model: Any, adapter: Any, folder: str) -> Any:
    from peft import get_peft_model

    try:
        with torch.device("meta"):  # else PEFT would draw the adapter's random weights first
            return get_peft_model(model, adapter)
    except _BUILDING_ERRORS as error:
        raise ModelError(f"The adapter in {folder} does not fit its base model: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """The first paragraph, whose lines belong together; what follows is advice for programmers."""
    return " ".join(str(error).strip().split("\n\n")[0].split()) or type(error).__name__
