"""Whether the files of a checkpoint are whole, seen before a run goes on from it.

A copy that was cut, or a disk that failed, would otherwise end deep in another library, or not at all: transformers
goes on without the optimizer's state where one of its files is missing.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from boxtune.config.load import flatten, read_yaml
from boxtune.errors import ConfigError, ModelError
from boxtune.training.callbacks.checkpoints import CONFIG_FILE, RUN_FILE, checkpoints

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
    copies = [copy for copy in [*of_stages, *own] if copy.is_file() and _cut(copy) is None]
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
        return json.loads(path.read_text(encoding="utf-8"))
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
    return None


def _damage(path: Path) -> str | None:
    """What is wrong with a file, as far as a look at its ends tells: no tensor is read."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return None
        if path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):  # torch.save writes zip archives
            return "is cut or no file of torch"
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        if path.suffix == ".yaml" and (reason := _cut(path)) is not None:
            return f"cannot be read ({reason})"
    except (OSError, ValueError, SafetensorError) as error:
        return f"cannot be read ({' '.join(str(error).split())})"
    return None
