"""Runs in several processes, as torchrun starts them: here two on the CPU, which talk by gloo."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from boxtune.config.load import load_config
from boxtune.errors import ConfigError
from boxtune.models.devices import pick_device
from boxtune.training.callbacks.checkpoints import last_checkpoint
from boxtune.training.recipes import run_recipe
from boxtune.training.resume import claim_output_dir
from training.runs import SHORT, in_turn, short_run, weights, write_coco

JUDGED = ("adapter.language=lora", "evaluation.at_end=true", "data.val_fraction=0.2")
TIMED = ("adapter.language=lora", "trainer.max_steps=null", "trainer.minutes=0.03")


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", 10)


@pytest.fixture(scope="module")
def two(coco, tmp_path_factory) -> tuple[Path, str]:
    """A judged and a timed run of two processes, on a port that is free: their folder, and what both said."""
    home = tmp_path_factory.mktemp("two")
    train = ["train", "--data", str(coco), *SHORT, "model.device=cpu", "--output-dir"]
    runs = [
        [*train, str(home / "judged"), *JUDGED, "trainer.per_device_train_batch_size=1"],
        [*train, str(home / "timed"), *TIMED],
    ]
    return home, in_turn(runs)


@pytest.mark.slow
def test_two_processes_train_what_one_does_with_twice_the_batch(coco, two, tmp_path):
    home, said = two
    alone = short_run(coco, tmp_path / "one", "trainer.per_device_train_batch_size=2", *JUDGED)
    of_two, of_one = weights(home / "judged"), weights(tmp_path / "one")
    assert of_two.keys() == of_one.keys()
    # sums of two processes are added in another order; Adam turns the rounding of a tiny gradient into a visible step
    for name, tensor in of_one.items():
        torch.testing.assert_close(of_two[name], tensor, rtol=1e-3, atol=2e-6)
    assert any(tensor.abs().max() > 1e-5 for name, tensor in of_one.items() if "lora_B" in name)
    assert alone[0].num_steps == 4
    assert said.count("8 images to train on") == 1
    assert len(re.findall(r"\b4 steps in", said)) == 1
    assert (home / "judged" / "report.html").is_file()


@pytest.mark.slow
def test_two_clocks_agree_on_the_end(two):
    checkpoint = last_checkpoint(two[0] / "timed")
    assert checkpoint is not None
    assert {path.name for path in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}


def test_only_the_first_process_looks_whether_the_folder_is_empty(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match="not empty"):
        claim_output_dir(tmp_path, resume=False)
    monkeypatch.setenv("RANK", "1")
    assert claim_output_dir(tmp_path, resume=False) is None


def test_a_recipe_of_two_stages_is_for_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = load_config(None, ["data.path=somewhere", f"output_dir={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match="is for one process"):
        run_recipe("r3-two-stage", config)


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert str(pick_device("auto")) == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [str(pick_device(wish)) for wish in ("auto", "cuda", "cuda:0", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]
