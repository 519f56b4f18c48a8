"""Going on from a checkpoint that somebody else has made: data is read, programs are not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from boxtune.errors import BoxtuneError, ConfigError
from boxtune.training.damage import SIZES_FILE, check_whole
from training.runs import short_run, write_coco


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("run")
    short_run(write_coco(home / "data"), home / "run", "trainer.max_steps=2", "trainer.save_steps=2")
    return home


@pytest.fixture
def checkpoint(run, tmp_path) -> Path:
    """Of a copy of the run; without the sizes of its files, which a stranger would have written anew."""
    folder = shutil.copytree(run / "run", tmp_path / "run") / "checkpoint-2"
    (folder / SIZES_FILE).unlink(missing_ok=True)
    return folder


def go_on(run: Path, checkpoint: Path) -> None:
    short_run(run / "data", checkpoint.parent, "trainer.max_steps=3", "trainer.save_steps=2", resume=True)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_state_that_is_a_program_is_refused(run, checkpoint, trap, put_trap, name):
    assert (checkpoint / name).is_file()
    put_trap(checkpoint / name)
    with pytest.raises(
        ConfigError, match=rf"damaged: {name} (holds more than tensors|is cut or no file of torch)"
    ) as told:
        go_on(run, checkpoint)
    assert "\n" not in str(told.value)
    assert not trap.went_off


@pytest.mark.parametrize("name", ["training_args.bin", "adapter_model.bin", "pytorch_model.bin", "scaler.pt.bin"])
def test_pickles_that_nobody_needs_are_not_opened(run, checkpoint, trap, put_trap, name):
    put_trap(checkpoint / name)
    go_on(run, checkpoint)
    assert not trap.went_off


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json", "run.json", "config.yaml", "boxtune.json"])
def test_a_pickle_under_another_name_is_refused(run, checkpoint, trap, put_trap, name):
    put_trap(checkpoint / name)
    with pytest.raises(BoxtuneError):
        go_on(run, checkpoint)
    assert not trap.went_off


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_state_of_another_shape_is_refused(checkpoint, name):
    check_whole(checkpoint)
    torch.save([1, 2], checkpoint / name)
    with pytest.raises(ConfigError, match=f"{name} is not what a training writes"):
        check_whole(checkpoint)


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"a": 1}', '{"data": []}', '{"data": {"fingerprint": 1}}'])
@pytest.mark.parametrize("name", ["run.json", "trainer_state.json"])
def test_records_of_another_shape_are_refused(checkpoint, name, content):
    (checkpoint / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{name} is not what a training writes"):
        check_whole(checkpoint)


@pytest.mark.parametrize("change", [{"stranger": 1}, {"global_step": "x"}, {"log_history": [1]}, {"log_history": {}}])
def test_a_trainers_state_with_other_things_in_it_is_refused(checkpoint, change):
    path = checkpoint / "trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=r"trainer_state\.json is not what a training writes"):
        check_whole(checkpoint)


def test_a_saved_configuration_makes_no_objects(run, checkpoint, tmp_path):
    for path in (checkpoint / "config.yaml", checkpoint.parent / "config.yaml"):
        path.write_text(f"model: !!python/object/apply:os.mkdir [{tmp_path / 'trace'}]\n")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        go_on(run, checkpoint)
    assert not (tmp_path / "trace").exists()
