"""A model by its name: a folder, a hub id, the folder of an adapter or of a head alone, `embedded`, `tiny:FAMILY`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from boxtune.errors import ModelError
from boxtune.models.bases import base_of, check_base
from boxtune.models.contract import (
    FILE_NAME,
    RUN_FILE,
    Contract,
    check_pixel_limits,
    default_contract,
    read_contract,
)
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.saving import CONFIG_FILE as HEAD_CONFIG
from boxtune.models.detection_head.saving import has_head, load_head
from boxtune.models.families import Family, family
from boxtune.models.places import (
    EMBEDDED,
    LOADING_ERRORS,
    RECIPE_FILE,
    folder_of,
    hub_options,
    in_one_line,
    load_config,
    load_processor,
    may_be_hub_id,
    no_model,
)
from boxtune.models.quantize import Quantize, check_precision, quantization_config, require_bitsandbytes, settle
from boxtune.models.strangers import ADAPTER_CONFIG, check_weights, read_adapter_config


@dataclass(frozen=True)
class LoadedModel:
    """A model, its processor, and what it must be asked with.

    Attributes:
        model: of transformers, or a PeftModel around it.
        processor: with the pixel limits of the contract.
        contract: saved with the model, or the family's defaults.
        trained_here: whether the contract was saved with the model.
        base: name of the model that the weights come from (of an adapter, or of a head alone: its base).
        head: the detection head that was saved beside the weights, in fp32 and not a part of `model`; None: there is
            none.
    """

    model: Any
    processor: Any
    contract: Contract
    trained_here: bool
    base: str
    head: DetectionHead | None = None

    @property
    def family(self) -> Family:
        """The row of the families table."""
        return self.contract.family


def load_model(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
    trust_remote_code: bool = False,
    trainable: bool = False,
    quantize: Quantize = "none",
) -> LoadedModel:
    """Load weights, processor and contract.

    Args:
        name: see the module.
        dtype, device, attention: as in transformers.
        trust_remote_code: run code that comes with the model; off unless the user says so.
        trainable: an adapter stays open for further training.
        quantize: `nf4` packs the language model's linear layers into 4 bits, the base's where it is an adapter. An
            adapter that was trained so loads on the unpacked base unless told otherwise.

    Raises:
        ModelError: no such model, no weights, another family, a folder that contradicts itself, a base that has changed
            under a head, or no 4 bits here.
    """
    options = {"dtype": dtype, "attn_implementation": attention, "trust_remote_code": trust_remote_code}
    if quantize == "nf4":
        require_bitsandbytes(device)
    if name.startswith("tiny:"):
        return _tiny(name, options, device, quantize)
    folder, named = _places(name)
    base = named or (EMBEDDED if name == EMBEDDED else str(folder if folder.is_dir() else name))
    if named is not None and named.startswith("tiny:"):
        model = _tiny(named, options, device, quantize).model
    else:
        model = _from_pretrained(str(folder_of(base)), options, device, quantize)
        model.name_or_path = base  # what an adapter's configuration will name, the same on every machine
    if (folder / ADAPTER_CONFIG).is_file():
        model = _with_adapter(model, folder, trainable)
    elif named is not None:
        check_base(folder, base)
    processor = load_processor(str(folder) if folder.is_dir() else name, trust_remote_code=trust_remote_code)
    contract = read_contract(folder) if folder.is_dir() else None
    model_type = model.config.model_type
    if contract is not None:
        if contract.model_type != model_type:
            raise ModelError(f"{folder} was trained on a {contract.model_type}, but its weights are a {model_type}.")
        check_pixel_limits(contract, processor, folder)
    head = load_head(folder, model.config.get_text_config(), device=device) if has_head(folder) else None
    contract, trained_here = contract or default_contract(model_type, processor), contract is not None
    return LoadedModel(model, processor, contract, trained_here, base, head)


def check_model(name: str) -> Contract | None:
    """Refuse what cannot be loaded, as far as small files tell; returns the contract that lies beside the weights.

    Raises:
        ModelError: no such model, another family, an unfinished run, or a folder that contradicts itself.
    """
    if name.startswith("tiny:"):
        family(name.removeprefix("tiny:"))
        return None
    folder, base = _places(name)
    load_config(base or name)
    return read_contract(folder) if folder.is_dir() else None


def _places(name: str) -> tuple[Path, str | None]:
    """The folder of a name, which may be a hub id instead, and the base where it holds a part of one."""
    folder = folder_of(name)
    if not name or (not folder.is_dir() and (folder.is_file() or not may_be_hub_id(name))):
        raise no_model(name)
    _refuse_unfinished(folder)
    return folder, base_of(folder)


def _refuse_unfinished(folder: Path) -> None:
    """A run's folder gets its weights at the end; until then they are in its checkpoints."""
    being_written = (folder / RUN_FILE).is_file() and not (folder / FILE_NAME).is_file()
    if not being_written and any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG, HEAD_CONFIG)):
        return
    if (folder / RECIPE_FILE).is_file() and (stages := sorted(folder.glob(f"stage-*/{FILE_NAME}"))):
        raise ModelError(f"{folder} holds the stages of a recipe: name one, the last finished is {stages[-1].parent}.")
    checkpoints = sorted(folder.glob(f"checkpoint-*/{FILE_NAME}"), key=lambda path: path.stat().st_mtime)
    if checkpoints:
        raise ModelError(
            f"{folder} is an unfinished run: use {checkpoints[-1].parent}, or finish it with "
            f"boxtune train --resume --output-dir {folder}."
        )


def _tiny(name: str, options: dict[str, Any], device: str | torch.device, quantize: Quantize) -> LoadedModel:
    from boxtune.models.tiny import build_tiny

    model, processor = build_tiny(name.removeprefix("tiny:"))
    contract = default_contract(model.config.model_type, processor)
    if quantize == "none":
        model = model.to(device)
        for parameter in model.parameters():  # frequencies of positions stay fp32, as `from_pretrained` leaves them
            parameter.data = parameter.data.to(options["dtype"])
    else:  # weights are packed while they are read
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            model = _from_pretrained(folder, options, device, quantize)
    model.name_or_path = name
    return LoadedModel(model, processor, contract, False, name)


def _from_pretrained(name: str, options: dict[str, Any], device: str | torch.device, quantize: Quantize) -> Any:
    from transformers import AutoModelForImageTextToText

    config = load_config(name, trust_remote_code=options["trust_remote_code"])  # before gigabytes are read
    row = family(config)
    if Path(name).is_dir():
        check_weights(Path(name))
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"'{name}' holds weights that are quantised already: name the model that it was made from; "
            "model.quantize=nf4 packs it while it is loaded."
        )
    if quantize == "nf4":
        options = {**options, "quantization_config": quantization_config(row), "device_map": {"": str(device)}}
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name, config=config, use_safetensors=True, output_loading_info=True, **options, **hub_options(name)
        )
    except LOADING_ERRORS as error:
        raise ModelError(f"'{name}' cannot be loaded as a model: {in_one_line(error)}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random weights
        raise ModelError(f"'{name}' lacks {len(missing)} of the model's weights, such as {missing[0]}: copy it again.")
    check_precision(model, row, quantize)
    settle(model)
    return model if quantize == "nf4" else model.to(device)


def _with_adapter(model: Any, folder: Path, trainable: bool) -> Any:
    from peft import PeftModel

    try:
        config = read_adapter_config(folder)
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, config=config)
    except ModelError:
        raise
    except LOADING_ERRORS as error:
        raise ModelError(f"The adapter in {folder} does not fit its base model: {in_one_line(error)}") from error
