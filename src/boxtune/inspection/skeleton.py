"""A model without its weights: every module and parameter on torch's meta device, made from config.json alone.

Names, shapes and areas are those of the real model, and nothing is read or kept of its gigabytes. So a model of 72
billion parameters is looked at in seconds, on any machine.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from boxtune.errors import ModelError
from boxtune.models.areas import bare_name
from boxtune.models.bases import base_of
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.saving import read_head_config
from boxtune.models.families import Family, family
from boxtune.models.places import LOADING_ERRORS, in_one_line, load_config
from boxtune.models.strangers import ADAPTER_CONFIG, read_adapter_config


@dataclass(frozen=True)
class Skeleton:
    """A model whose parameters have names, shapes and dtypes, but no values.

    Attributes:
        model: of transformers, or a PeftModel around it.
        name: as asked for.
        base: name of the model below an adapter or beside a head that was trained alone; else the same as `name`.
    """

    model: Any
    name: str
    base: str

    @property
    def family(self) -> Family:
        """The row of the families table."""
        return family(self.model.config)

    @property
    def part(self) -> str | None:
        """What the folder holds beside the name of its base: `adapter` or `detection head`; None: all of a model."""
        if self.base == self.name:
            return None
        return "adapter" if hasattr(self.model, "peft_config") else "detection head"

    @property
    def note(self) -> str | None:
        """A sentence on the adapter or the head, None without one."""
        if self.part is None:
            return None
        if self.part == "detection head":
            with torch.device("meta"):
                head = DetectionHead(read_head_config(Path(self.name)))
            size = sum(parameter.numel() for parameter in head.parameters())
            return f"The detection head in {self.name}: {size:,} parameters, not counted here, beside {self.base}."
        wrapped = [bare_name(name) for name, module in self.model.named_modules() if isinstance(module, BaseTunerLayer)]
        areas = Counter(map(self.family.area_of, wrapped))
        where = ", ".join(f"{count} layers of {area}" for area, count in areas.items())
        (settings,) = self.model.peft_config.values()
        rank = f" of rank {settings.r}" if hasattr(settings, "r") else ""
        own = sum(p.numel() for name, p in self.model.named_parameters() if self.model.base_model.prefix in name)
        return (
            f"The adapter in {self.name}: {settings.peft_type.value}{rank} on {where}, {own:,} parameters, counted in "
            f"their areas. Everything else is its base, {self.base}."
        )


def load_skeleton(name: str, *, trust_remote_code: bool = False) -> Skeleton:
    """The model of a name, without weights.

    Args:
        name: a folder with config.json (weights or none), a config.json, the folder of an adapter or of a head
            alone (its base is looked up), a hub id (only its config.json is fetched), `embedded`, or `tiny:FAMILY`.
        trust_remote_code: run code that comes with the model; off unless the user says so.

    Raises:
        ModelError: no such model, no config.json, another family, or sizes that make no model.
    """
    base = base_of(Path(name))
    if base is None:
        return Skeleton(_build(name, trust_remote_code), name, name)
    try:
        model = _build(base, trust_remote_code)
    except ModelError as error:
        raise ModelError(f"{name} was trained on '{base}', which cannot be opened: {error}") from error
    if (Path(name) / ADAPTER_CONFIG).is_file():
        model = _with_adapter(model, name)
    return Skeleton(model, name, base)


def _build(name: str, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForImageTextToText

    config = load_config(name, trust_remote_code=trust_remote_code)
    # Qwen3-VL names it only for the language model
    dtype = config.dtype or config.get_text_config().dtype or torch.float32
    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    except LOADING_ERRORS as error:
        raise ModelError(
            f"The config.json of '{name}' makes no {config.model_type} ({in_one_line(error)}): copy it again."
        ) from error


def _with_adapter(model: Any, folder: str) -> Any:
    from peft import get_peft_model

    try:
        adapter = read_adapter_config(Path(folder), with_weights=False)
        with torch.device("meta"):  # else PEFT would draw the adapter's random weights first
            return get_peft_model(model, adapter)
    except ModelError:
        raise
    except LOADING_ERRORS as error:
        raise ModelError(f"The adapter in {folder} does not fit its base model: {in_one_line(error)}") from error
