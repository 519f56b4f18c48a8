"""The stages of a recipe on the disk: which run a folder belongs to, and the proof that a result is that stage's."""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxtune.errors import ConfigError, ModelError
from boxtune.models.contract import FILE_NAME as CONTRACT_FILE
from boxtune.models.fingerprint import weights_fingerprint
from boxtune.models.places import RECIPE_FILE
from boxtune.training.callbacks.checkpoints import RUN_FILE, last_checkpoint
from boxtune.training.resume import claim_output_dir
from boxtune.whole_files import write_text

STAGE_FILE = "stage.json"


@dataclass(frozen=True)
class StageMark:
    """Which stage of which run of a recipe.

    Attributes:
        recipe: its name.
        run_id: random, one for all stages of a run.
        number: from 1.
        base_weights: fingerprint of the result of the stage before; None for the first.
    """

    recipe: str
    run_id: str
    number: int
    base_weights: str | None = None


def claim_recipe_dir(folder: Path, recipe: str, resume: bool) -> str:
    """Make the folder of a recipe with several stages ready; returns the run's id.

    Raises:
        ConfigError: something is in it and the run is no resumed one, or it holds no run of this recipe.
        SaveError: it cannot be made.
    """
    path = folder / RECIPE_FILE
    if resume:
        known = _read(path)
        if known.get("recipe") != recipe or "run_id" not in known:
            raise ConfigError(
                f"Nothing to resume: {folder} holds no run of recipe {recipe}. Start without --resume, in a new folder."
            )
        return str(known["run_id"])
    if path.is_file():
        raise ConfigError(
            f"{folder} is not empty: choose another --output-dir, or go on with the run in it by --resume."
        )
    claim_output_dir(folder, resume=False)
    run_id = uuid.uuid4().hex
    write_text(path, json.dumps({"recipe": recipe, "run_id": run_id}, indent=2) + "\n")
    return run_id


def write_result(folder: Path, mark: StageMark) -> None:
    """Say in a finished stage's folder whose result it is, and of which weights."""
    content = {**dataclasses.asdict(mark), "weights": weights_fingerprint(folder)}
    (folder / STAGE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_finished(folder: Path) -> bool:
    """Whether a stage's training is over and its weights are saved."""
    return (folder / CONTRACT_FILE).is_file()


def verified_weights(folder: Path, mark: StageMark) -> str:
    """The fingerprint of a finished stage's weights, once it is proven that they are that stage's.

    Raises:
        ModelError: the folder is another run's, or its weights are not those that the stage saved.
    """
    known = _read(folder / STAGE_FILE)
    remedy = "put its folder back, or start again in another --output-dir"
    if (known.get("run_id"), known.get("number")) != (mark.run_id, mark.number):
        raise ModelError(
            f"{folder} is not the result of stage {mark.number} of this run of {mark.recipe} ({STAGE_FILE} says "
            f"otherwise or is missing): {remedy}."
        )
    weights = weights_fingerprint(folder)
    if known.get("weights") != weights:
        raise ModelError(f"The weights in {folder} are not those that stage {mark.number} of this run saved: {remedy}.")
    return weights


def discard_unbegun(folder: Path, mark: StageMark) -> None:
    """Remove a stage's folder that this run left before its first checkpoint, so that the stage starts anew."""
    begun = last_checkpoint(folder) is not None or is_finished(folder)
    if not begun and folder.is_dir() and _read(folder / RUN_FILE).get("stage", {}).get("run_id") == mark.run_id:
        shutil.rmtree(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
