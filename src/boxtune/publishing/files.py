"""Which files of a run's folder are the model, by name. All others stay: checkpoints, logs, reports with pictures, and
`run.json` and `config.yaml`, which name folders and images of whoever trained it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from boxtune.errors import ModelError
from boxtune.inference.calibrator import FILE_NAME as CALIBRATION_FILE
from boxtune.models.bases import base_of, base_of_head
from boxtune.models.contract import FILE_NAME, read_contract
from boxtune.models.detection_head.saving import CONFIG_FILE as HEAD_CONFIG
from boxtune.models.detection_head.saving import WEIGHTS_FILE as HEAD_WEIGHTS
from boxtune.models.load import check_model
from boxtune.models.places import EMBEDDED, TINY
from boxtune.models.strangers import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_weights, read_adapter_config

_WEIGHTS: Final = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_NAMES: Final = frozenset(
    {
        FILE_NAME,
        CALIBRATION_FILE,
        HEAD_CONFIG,
        HEAD_WEIGHTS,
        ADAPTER_CONFIG,
        ADAPTER_WEIGHTS,
        "model.safetensors.index.json",
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
    }
)


def files_of_model(folder: Path) -> list[Path]:
    """What goes to the hub, by name.

    Raises:
        ModelError: no finished run or merged model, damaged files, or an adapter or head that nobody else could load.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder: name that of a finished run, or of boxtune merge.")
    check_model(str(folder))
    if read_contract(folder) is None:
        raise ModelError(f"{folder} has no {FILE_NAME}, so boxtune did not train it: push a run, or a merged one.")
    files = sorted(path for path in folder.iterdir() if path.is_file() and _is_of_model(path.name))
    head_alone = base_of_head(folder) is not None
    if (folder / ADAPTER_CONFIG).is_file():
        read_adapter_config(folder)
    elif not head_alone:
        check_weights(folder)
    base_on_hub(folder)
    if not any(path.suffix == ".safetensors" and (head_alone or path.name != HEAD_WEIGHTS) for path in files):
        raise ModelError(f"{folder} holds no weights: finish the run first.")
    return files


def base_on_hub(folder: Path) -> str | None:
    """The base that an adapter, or a head that was trained alone, names, where others can load it from; None where the
    folder holds a whole model.

    Raises:
        ModelError: it is a folder of this machine.
    """
    base = base_of(folder)
    if base is None or base == EMBEDDED or base.startswith(TINY) or not Path(base).exists():
        return base
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    part = "adapter" if is_adapter else "detection head"
    where = f"base_model_name_or_path in {ADAPTER_CONFIG}" if is_adapter else f"base_of_head.name in {FILE_NAME}"
    raise ModelError(
        f"The {part} in {folder} names its base '{base}', a folder that others do not have: write the base's hub id "
        f"to {where}, or push what boxtune merge makes of the two."
    )


def _is_of_model(name: str) -> bool:
    return name in _NAMES or _WEIGHTS.fullmatch(name) is not None
