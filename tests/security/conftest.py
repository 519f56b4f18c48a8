"""What tests of hostile files share: a pickle that leaves a trace, little models, and the command line."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.contract import default_contract
from boxtune.models.load import load_model
from boxtune.models.tiny import save_tiny


@dataclass(frozen=True)
class Trap:
    """Makes a folder when it is unpickled."""

    trace: Path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)

    @property
    def went_off(self) -> bool:
        return self.trace.exists()

    def pickled(self, path: Path) -> None:
        path.write_bytes(pickle.dumps({"weight": self}))

    def saved_by_torch(self, path: Path) -> None:
        torch.save({"weight": self}, path)


@pytest.fixture
def trap(tmp_path) -> Trap:
    return Trap(tmp_path / "trace")


@pytest.fixture(params=["pickle", "torch"])
def put_trap(request, trap) -> Callable[[Path], None]:
    """Write the trap to a file, as a bare pickle or as torch's archive."""
    return trap.pickled if request.param == "pickle" else trap.saved_by_torch


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A model's folder; copy it before changing it."""
    return save_tiny("qwen2_5_vl", tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def adapter_folder(tiny_folder, tmp_path_factory) -> Path:
    """An adapter's folder; copy it before changing it."""
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    loaded = load_model(str(tiny_folder))
    areas = {"vision": "frozen", "merger": "frozen", "language": "lora"}
    prepare_for_training(loaded.model, loaded.family, areas, LowRank(rank=4, alpha=8)).save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    default_contract(loaded.contract.model_type, loaded.processor).save(folder)
    return folder
