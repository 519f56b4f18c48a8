"""Folders of runs as they are after a training, with all that must not be published, and a hub to publish to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from boxtune import hub as hub_of_ours
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.bases import named_base
from boxtune.models.contract import default_contract
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.saving import save_head
from boxtune.models.load import load_model
from boxtune.models.tiny import save_tiny
from publishing.stand_in import Hub, running

RUN = {
    "base_model": "Qwen/Qwen2-VL-2B-Instruct",
    "trained": {"language": 1234567},
    "data": {"name": "blood`<b>cells", "num_images": 96, "fingerprint": "ab12" * 16, "split": "train"},
    "watched": ["secret-patient-7.jpg"],
    "versions": {"boxtune": "0.1.0"},
}
METRICS = {
    "map": 0.4321,
    "map50": 0.75,
    "num_images": 24,
    "num_boxes": 33,
    "score_source": "token probabilities",
    "intervals": {"figures": {"map": {"low": 0.4, "high": 0.46}}},
}
PRIVATE = (
    "run.json",
    "config.yaml",
    "metrics.json",
    "report.html",
    "training_args.bin",
    "optimizer.pt",
    "answers.jsonl",
)


def with_traces(folder: Path) -> Path:
    """Everything besides the model that a training leaves."""
    (folder / "run.json").write_text(json.dumps(RUN))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "config.yaml").write_text("recipe: r4-joint\ndata: {path: /home/ann/patients}\n")
    for name in ("report.html", "training_args.bin", "optimizer.pt", "answers.jsonl", "photo.jpg", "README.md"):
        (folder / name).write_text("secret-patient-7")
    for inner in ("checkpoint-198", "runs", "pictures"):
        (folder / inner).mkdir()
        shutil.copy(folder / "boxtune.json", folder / inner / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def full_run(tmp_path_factory) -> Path:
    folder = save_tiny("qwen2_vl", tmp_path_factory.mktemp("full") / "run")
    loaded = load_model(str(folder))
    replace(default_contract("qwen2_vl", loaded.processor), labels=("red cell", "a|b")).save(folder)
    return with_traces(folder)


@pytest.fixture(scope="session")
def adapter_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "run"
    loaded = load_model("tiny:qwen2_vl")
    areas = {"vision": "frozen", "merger": "frozen", "language": "lora"}
    prepare_for_training(loaded.model, loaded.family, areas, LowRank(rank=4, alpha=8)).save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    default_contract("qwen2_vl", loaded.processor).save(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT writes an empty form
    return with_traces(folder)


@pytest.fixture(scope="session")
def head_run(tmp_path_factory) -> Path:
    """Of a head that was trained alone."""
    folder = tmp_path_factory.mktemp("head") / "run"
    loaded = load_model("embedded")
    save_head(DetectionHead(fitted_to(loaded.model.config.get_text_config(), 0, width=32, caption_layers=1)), folder)
    loaded.processor.save_pretrained(folder)
    replace(loaded.contract, base_of_head=named_base("embedded")).save(folder)
    return with_traces(folder)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for the real one, and a login to it."""
    from huggingface_hub import constants

    with running(Hub()) as stand_in:
        hub_of_ours.answers.cache_clear()
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # that protocol is the hub's own storage
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", stand_in.token)
        yield stand_in
    hub_of_ours.answers.cache_clear()
