"""What a run was made of: versions, data fingerprint, machine. Saved with every checkpoint as `run.json`."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from boxtune import processes
from boxtune.config.engines import Engine
from boxtune.data.digests import image_digests, pack_digests
from boxtune.models.areas import AreaSummary
from boxtune.models.contract import Contract
from boxtune.training.sets import RunData
from boxtune.training.stages import StageMark

_PACKAGES = (
    "boxtune",
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "numpy",
    "pillow",
)


def run_record(
    data: RunData,
    contract: Contract,
    base_model: str,
    areas: Sequence[AreaSummary],
    stage: StageMark | None = None,
    engine: Engine = "ddp",
) -> dict[str, Any]:
    """JSON-ready facts about a run; `areas` of the model as it is trained."""
    train_set, watched = data.train, data.watched
    return {
        **({} if stage is None else {"stage": dataclasses.asdict(stage)}),
        "base_model": base_model,
        "num_processes": processes.count(),
        "engine": engine,
        "model_type": contract.model_type,
        "trained": {row.area: row.num_trainable for row in areas if row.num_trainable},
        "data": {
            "name": train_set.name,
            "num_images": len(train_set),
            "labels": list(train_set.labels),
            "split": train_set.split,
            "fingerprint": train_set.fingerprint(),
            "images": pack_digests(image_digests(train_set)),
        },
        **({} if watched is None else {"watched": [record.id for record in watched.records]}),
        "versions": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, where it is one."""
    here = Path(__file__).resolve().parent
    if not (here.parents[2] / ".git").exists():
        return None  # installed: a repository around site-packages is the user's, not ours
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
