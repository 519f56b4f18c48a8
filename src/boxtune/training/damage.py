"""Whether the files of a checkpoint are whole, seen before a run goes on from it.

A copy that was cut, or a disk that failed, would otherwise end deep in another library, or not at all: transformers
goes on without the optimizer's state where one of its files is missing.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerControl, TrainerState
from transformers.trainer_pt_utils import safe_globals

from boxtune.config.load import flatten, read_yaml
from boxtune.documents import parse_json
from boxtune.errors import ConfigError, ModelError
from boxtune.training.callbacks.best import KEPT as KEPT_OF_BEST
from boxtune.training.callbacks.best import BestCallback
from boxtune.training.callbacks.checkpoints import CONFIG_FILE, RUN_FILE, checkpoints
from boxtune.training.callbacks.parts import PartsCallback
from boxtune.training.callbacks.stability import StabilityCallback
from boxtune.training.callbacks.unlogged import UnloggedCallback
from boxtune.training.clock import RunClock

# Of each at least one; a sharded optimizer has other names, but begins so.
_NEEDED: Final = (
    CONFIG_FILE,
    RUN_FILE,
    "trainer_state.json",
    "scheduler.pt",
    "rng_state*.pth",
    ("optimizer*", "global_step*"),
    ("*.safetensors", "pytorch_model_fsdp*"),
)

# Who keeps something in every trainer_state.json, and attributes that must be there: a clock without its time would
# begin anew, and the next checkpoint would fail for a callback that is not named (transformers, `_save_checkpoint`).
_KEPT: Final[dict[str, set[str]]] = {
    TrainerControl.__name__: set(),
    RunClock.__name__: {"used_before"},
    PartsCallback.__name__: {"halvings"},
    StabilityCallback.__name__: {"lowered"},
    UnloggedCallback.__name__: set(),
}
_KEPT_OF_BEST: Final = {BestCallback.__name__: set(KEPT_OF_BEST)}


SIZES_FILE: Final = "sizes.json"
"""In a checkpoint: the size of each of its other files in bytes."""


def note_sizes(folder: Path) -> None:
    """Write down how long the files of a checkpoint are, so that one that is cut later can be told."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / SIZES_FILE).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


def check_whole(checkpoint: Path) -> None:
    """Refuse to go on from a checkpoint with a file that is missing or cut.

    A file whose content was changed but still can be read is not found out.

    Args:
        checkpoint: folder of a checkpoint, in the folder of its run.

    Raises:
        ConfigError: names the file, and what to go on from instead.
    """
    found = _first_damage(checkpoint)
    if found is None:
        return
    older = [folder for folder in checkpoints(checkpoint.parent) if folder != checkpoint]
    instead = f"to go on from {older[-1].name}" if older else "and start the run again"
    raise ConfigError(f"{checkpoint} is damaged: {found}. Remove this checkpoint {instead}.")


def check_saved_config(path: Path) -> None:
    """Refuse a run's own configuration that is cut: what it no longer says would become a default in silence.

    Args:
        path: `config.yaml` in the folder of a run, or of a recipe with its stages.

    Raises:
        ConfigError: says what is wrong with it, and how to mend it.
    """
    run = path.parent
    own = [folder / CONFIG_FILE for folder in checkpoints(run)]
    of_stages = sorted(run.glob(f"stage-*/checkpoint-*/{CONFIG_FILE}"))
    copies = [copy for copy in [*of_stages, *own] if copy.is_file() and (_cut(copy) or _other_size(copy)) is None]
    wrong = _cut(path)
    if wrong is None and copies:
        before, now = (dict(flatten(read_yaml(one))).keys() for one in (copies[-1], path))
        wrong = next((f"{key} is missing" for key in sorted(before - now)), None)
    if wrong is None:
        return
    copy = f"copy {copies[-1]} over it, or " if copies and copies[-1] in own else ""
    raise ConfigError(
        f"{path} is damaged ({wrong}): {copy}say the settings of the run again (boxtune train --resume --config FILE)."
    )


def _cut(path: Path) -> str | None:
    """What is wrong with a configuration that boxtune wrote."""
    try:
        read_yaml(path)
    except ConfigError as error:
        return str(error)
    return None if path.read_bytes().endswith(b"\n") else "it ends in the middle of a line"


def read_json(path: Path) -> Any:
    """A JSON file that a finished run has left.

    Raises:
        ModelError: it is missing or cut.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} is missing or damaged ({error}): put it back, or start again in another --output-dir."
        ) from None


def _first_damage(folder: Path) -> str | None:
    for needed in _NEEDED:
        names = (needed,) if isinstance(needed, str) else needed
        if not any(match for name in names for match in folder.glob(name)):
            return f"{names[0]} is missing"
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if (reason := _damage(path)) is not None:
            return f"{path.name} {reason}"
    wrong = ((name, _other_size(folder / name)) for name in _sizes(folder))
    return next((f"{name} {reason}" for name, reason in wrong if reason is not None), None)


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Name → bytes; nothing in a checkpoint of an earlier boxtune."""
    path = checkpoint / SIZES_FILE
    sizes = parse_json(path.read_bytes()) if path.is_file() else {}
    return sizes if isinstance(sizes, dict) else {}


def _other_size(file: Path) -> str | None:
    """What is wrong with the length of a file of a checkpoint."""
    written = _sizes(file.parent).get(file.name)
    if written is None:
        return None
    if not file.is_file():
        return "is missing"
    found = file.stat().st_size
    return None if found == written else f"has {found} bytes, and was written with {written}"


def _damage(path: Path) -> str | None:
    """What is wrong with a file, as far as a look at its ends tells: no tensor is read."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return None
        if path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):  # torch.save writes zip archives
            return "is cut or no file of torch"
        if path.suffix in (".pt", ".pth"):
            return _strange_content(path)
        if path.suffix == ".json":
            return _strange_json(path, parse_json(path.read_bytes()))
        if path.suffix == ".yaml" and (reason := _cut(path)) is not None:
            return f"cannot be read ({reason})"
    except UnpicklingError:  # whose message tells how to read it nevertheless
        return "holds more than tensors and numbers, and is not read: it could run programs"
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        return f"cannot be read ({' '.join(str(error).split())})"
    return None


def _strange_content(path: Path) -> str | None:
    """What is wrong with a file of torch, read as the trainer will read it: without running anything.

    Raises:
        UnpicklingError: there is something else in it than tensors, numbers, lists and the like.
        RuntimeError: it is damaged.
    """
    with safe_globals():  # numpy's, for the state of its random generator
        content = torch.load(path, weights_only=True, mmap=True, map_location="meta")
    return None if isinstance(content, dict) else "is not what a training writes"


def _strange_json(path: Path, content: Any) -> str | None:
    """What going on takes from a JSON file of a checkpoint, and does not find in it."""
    strange = "is not what a training writes"
    if path.name == RUN_FILE:
        data = content.get("data") if isinstance(content, dict) else None
        return None if isinstance(data, dict) and isinstance(data.get("fingerprint"), str) else strange
    if path.name != "trainer_state.json":
        return None
    known = {field.name for field in dataclasses.fields(TrainerState)}
    if not isinstance(content, dict) or not content.keys() <= known:
        return strange
    step, rows, states = (content.get(name) for name in ("global_step", "log_history", "stateful_callbacks"))
    rows_fit = isinstance(rows, list) and all(isinstance(row, dict) and "step" in row for row in rows)
    if not (isinstance(step, int) and isinstance(states, dict) and rows_fit):
        return strange
    return _lost_state(path.parent, states)


def _lost_state(checkpoint: Path, states: dict[str, Any]) -> str | None:
    settings = dict(flatten(read_yaml(checkpoint / CONFIG_FILE)))
    has_best = settings.get("evaluation.keep_best") or settings.get("trainer.early_stopping_patience") is not None
    for name, attributes in (_KEPT | (_KEPT_OF_BEST if has_best else {})).items():
        kept = states.get(name)
        arguments, found = (kept.get("args"), kept.get("attributes")) if isinstance(kept, dict) else (None, None)
        if not (isinstance(arguments, dict) and isinstance(found, dict) and attributes <= found.keys()):
            return f"has lost what {name} had kept"
    return None
