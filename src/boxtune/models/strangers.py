"""Folders of models and adapters as strangers make them: what transformers and PEFT are given of them, and what not.

Weights are read from safetensors alone: other files of weights are pickles, which are programs. Settings are data; what
would make PEFT or transformers load code, read other files or search for ever is refused or put aside.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from safetensors import SafetensorError, safe_open

from boxtune.console import say
from boxtune.documents import parse_json
from boxtune.errors import ModelError, some

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_MOST_BLOCKS: Final = 1000
_HIGHEST_RANK: Final = 8192
# What an adapter may say. Of other settings (kinds of LoRA that need files or code besides the weights), nothing.
_ADAPTER_SETTINGS: Final = frozenset(
    {
        "base_model_name_or_path",
        "peft_type",
        "peft_version",
        "task_type",
        "inference_mode",
        "revision",
        "auto_mapping",
        "r",
        "lora_alpha",
        "lora_dropout",
        "lora_bias",
        "bias",
        "use_dora",
        "use_rslora",
        "init_lora_weights",
        "fan_in_fan_out",
        "target_modules",
        "exclude_modules",
        "target_parameters",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "layers_pattern",
        "trainable_token_indices",
        "ensure_weight_tying",
        "megatron_core",
        "qalora_group_size",
    }
)
_REPEATS: Final = re.compile(r"[*+]|\{\d*,\d*\}")
_MOST_REPEATS: Final = 3  # in names of a hundred signs: some ten thousand ways to match
_OF_LORA: Final = re.compile(r"\.(lora_[A-Za-z_]+|base_layer)(\..*)?$")


def check_weights(folder: Path) -> None:
    """Refuse a model's folder whose weights are no safetensors, or lie elsewhere.

    Raises:
        ModelError: names the file, and what to do about it.
    """
    if not files_of_weights(folder):
        _refuse_pickles(folder, ("pytorch_model*.bin", "model*.bin", "*.pt", "*.pth", "*.ckpt"), _WEIGHTS)
        # none at all: transformers says so


def files_of_weights(folder: Path) -> list[str]:
    """Names of the files that transformers would read a model's weights from, sorted; none where it would find none.

    Raises:
        ModelError: an index that cannot be read, or that names other files than safetensors in the folder.
    """
    index = folder / _INDEX
    if (folder / _WEIGHTS).is_file():
        return [_WEIGHTS]
    if not index.is_file():
        return []
    try:
        files = set(parse_json(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read ({error}): copy the model again.") from None
    strange = sorted(str(name) for name in files if not _is_own_safetensors(name))
    if strange:
        raise ModelError(
            f"{index} names {some(strange)}: weights are read from .safetensors files in the folder itself only. Copy "
            "the model again, or convert it."
        )
    return sorted(files)


def check_sizes(settings: dict[str, Any], path: Path) -> None:
    """Refuse a configuration of so many blocks that making it would never end.

    Raises:
        ModelError: names the setting.
    """
    parts = (settings, settings.get("text_config"), settings.get("vision_config"))
    for part in (part for part in parts if isinstance(part, dict)):
        for name in ("num_hidden_layers", "depth"):
            number = part.get(name, 0)
            if isinstance(number, int | float) and not number <= _MOST_BLOCKS:
                raise ModelError(f"{path} says {name} {number:g}, no model has over {_MOST_BLOCKS}: copy it again.")


@functools.cache
def say_that_code_may_run(name: str) -> None:
    """Say once, on the error stream, that the user has let a model's own code run."""
    say(
        Console(stderr=True),
        f"model.trust_remote_code=true: code that comes with '{name}' may run, and may do all that you may do.",
    )


def forget_kernels(config: Any) -> None:
    """Make a configuration of transformers ask for no kernels: `attn_implementation: owner/name` would fetch code."""
    config._attn_implementation = None
    config._experts_implementation = None


def read_adapter_config(folder: Path, *, with_weights: bool = True) -> Any:
    """The configuration of a LoRA adapter as an object of PEFT's.

    Where the names of its modules are told by an expression that might search for ever, they are read from its weights.

    Args:
        folder: of the adapter.
        with_weights: refuse a folder without weights that can be read.

    Raises:
        ModelError: weights that are no safetensors, another kind of adapter, or a setting that is not understood.
    """
    from peft import LoraConfig, PeftConfig

    path = folder / ADAPTER_CONFIG
    try:
        settings = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}): copy the adapter again.") from None
    if with_weights and not (folder / ADAPTER_WEIGHTS).is_file():
        _refuse_pickles(folder, ("adapter_model*.bin", "*.pt", "*.pth"), ADAPTER_WEIGHTS)
        raise ModelError(f"{folder} holds no {ADAPTER_WEIGHTS}: copy the adapter again.")
    if wrong := _fault(settings):
        raise ModelError(f"{path}: {wrong}.")
    config = PeftConfig.from_pretrained(str(folder))
    assert isinstance(config, LoraConfig)
    if isinstance(config.target_modules, str) and may_search_for_ever(config.target_modules):
        config.target_modules = _modules_in(folder / ADAPTER_WEIGHTS)
    return config


def may_search_for_ever(expression: str) -> bool:
    """Whether a regular expression could take longer than one waits: a repeated group, or many repeats in a row.

    Told from the text alone, so that an honest expression may be taken for one, too.
    """
    plain = re.sub(r"\\d\+", "0", expression)  # the numbers of blocks; between them stand other signs
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", plain)  # what is escaped or a set is one sign
    if re.search(r"\)(?:[*+]|\{\d)", plain):
        return True
    return len(_REPEATS.findall(plain)) > _MOST_REPEATS or len(expression) > 10_000


def _is_own_safetensors(name: Any) -> bool:
    return isinstance(name, str) and name == Path(name).name and "\\" not in name and name.endswith(".safetensors")


def _refuse_pickles(folder: Path, patterns: tuple[str, ...], wanted: str) -> None:
    pickles = sorted(path.name for pattern in patterns for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder} holds its weights as {some(pickles)}, not as {wanted}: such files can hold programs and are not "
            "read. Ask its author for safetensors, or convert it where you trust it."
        )


def _fault(settings: Any) -> str | None:
    """What is wrong with an adapter's settings."""
    if not isinstance(settings, dict):
        return "it is no object {…}"
    if settings.get("peft_type") != "LORA":
        return f"adapters of the kind {settings.get('peft_type')!r} are not read, only LORA"
    strange = sorted(name for name, value in settings.items() if value and name not in _ADAPTER_SETTINGS)
    if strange:
        return f"what {some(strange)} should do is not known here: only plain LoRA, DoRA and rsLoRA are read"
    rank = settings.get("r", 8)
    if not isinstance(rank, int) or not 1 <= rank <= _HIGHEST_RANK:
        return f"r is {rank!r}, no rank of 1–{_HIGHEST_RANK}"
    patterns = [settings.get("exclude_modules"), settings.get("layers_pattern")]
    for name in ("rank_pattern", "alpha_pattern"):
        value = settings.get(name) or {}
        if not isinstance(value, dict):
            return f"{name} is {value!r}, no object {{…}}"
        patterns += value
    flat = [text for one in patterns for text in (one if isinstance(one, list) else [one])]
    hanging = [text for text in flat if isinstance(text, str) and may_search_for_ever(text)]
    return f"the expression {hanging[0][:80]!r} might search for ever: write module names" if hanging else None


def _modules_in(weights: Path) -> list[str]:
    """Full names of the modules that an adapter has weights for."""
    try:
        with safe_open(weights, framework="pt") as file:
            names = [name for name in file.keys() if _OF_LORA.search(name)]  # noqa: SIM118  no mapping
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights} cannot be read ({error}): copy the adapter again.") from None
    return sorted({_OF_LORA.sub("", name).removeprefix("base_model.model.") for name in names})
