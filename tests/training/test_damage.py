"""Checkpoints that are cut or not whole are named before anything is trained on them."""

from __future__ import annotations

import json
import shutil

import pytest

from boxtune.errors import ConfigError, ModelError
from boxtune.training.damage import check_saved_config, check_whole, read_json
from training.runs import short_run, weights, write_coco


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of four steps with the checkpoints of the last two."""
    home = tmp_path_factory.mktemp("run")
    short_run(write_coco(home / "data", 6), home / "o", "trainer.save_steps=1")
    return home


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose(path):
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (cut, "model.safetensors", "model.safetensors cannot be read"),
        (cut, "optimizer.pt", "optimizer.pt is cut or no file of torch"),
        (cut, "scheduler.pt", "scheduler.pt is cut"),
        (cut, "rng_state.pth", "rng_state.pth is cut"),
        (cut, "trainer_state.json", "trainer_state.json cannot be read"),
        (cut, "run.json", "run.json cannot be read"),
        (cut, "tokenizer.json", "tokenizer.json cannot be read"),
        (cut, "config.yaml", r"config.yaml (cannot be read|has \d+ bytes)"),  # cut at the end of a line it can be
        (cut, "chat_template.jinja", r"chat_template.jinja has \d+ bytes, and was written with"),
        (lose, "chat_template.jinja", "chat_template.jinja is missing"),
        (lose, "model.safetensors", r"\*\.safetensors is missing"),
        (lose, "optimizer.pt", r"optimizer\* is missing"),
        (lose, "scheduler.pt", "scheduler.pt is missing"),
        (lose, "rng_state.pth", r"rng_state\*\.pth is missing"),
        (lose, "config.yaml", "config.yaml is missing"),
    ],
)
def test_damage_is_named(run, tmp_path, damage, name, said):
    folder = shutil.copytree(run / "o", tmp_path / "o")
    (folder / "boxtune.json").unlink()  # as of a run that was killed
    damage(folder / "checkpoint-4" / name)
    with pytest.raises(ConfigError, match=f"checkpoint-4 is damaged: {said}.*Remove this .* to go on from"):
        short_run(run / "data", folder, resume=True)
    shutil.rmtree(folder / "checkpoint-4")
    check_whole(folder / "checkpoint-3")
    (folder / "checkpoint-3" / "optimizer.pt").write_text("text")
    with pytest.raises(ConfigError, match="Remove this checkpoint and start the run again"):
        check_whole(folder / "checkpoint-3")


def change_states(checkpoint, change) -> None:
    """Change what callbacks have kept; the file has no other size that would tell."""
    (checkpoint / "sizes.json").unlink(missing_ok=True)
    path = checkpoint / "trainer_state.json"
    content = json.loads(path.read_text())
    change(content["stateful_callbacks"])
    path.write_text(json.dumps(content))


NAMES = ["PartsCallback", "RunClock", "StabilityCallback", "TrainerControl", "UnloggedCallback"]


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (dict.clear, "TrainerControl"),
        *((lambda states, name=name: states.pop(name), name) for name in NAMES),
        (lambda states: states.update(TrainerControl=[]), "TrainerControl"),
        (lambda states: states["TrainerControl"].pop("args"), "TrainerControl"),
        (lambda states: states["UnloggedCallback"].pop("attributes"), "UnloggedCallback"),
        (lambda states: states["RunClock"]["attributes"].clear(), "RunClock"),
        (lambda states: states["PartsCallback"]["attributes"].clear(), "PartsCallback"),
        (lambda states: states["StabilityCallback"]["attributes"].pop("lowered"), "StabilityCallback"),
    ],
)
def test_a_checkpoint_that_lost_what_callbacks_kept(run, tmp_path, change, lost):
    folder = shutil.copytree(run / "o", tmp_path / "o")
    (folder / "boxtune.json").unlink()
    kept = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert sorted(kept) == NAMES
    change_states(folder / "checkpoint-4", lambda states: None)
    check_whole(folder / "checkpoint-4")
    change_states(folder / "checkpoint-4", change)
    said = rf"checkpoint-4 is damaged: trainer_state\.json has lost what {lost} had kept\. Remove this .* to go on from"
    with pytest.raises(ConfigError, match=said):
        short_run(run / "data", folder, resume=True)
    shutil.rmtree(folder / "checkpoint-4")
    assert short_run(run / "data", folder, "trainer.save_steps=1", resume=True)[0].num_steps == 4


@pytest.mark.parametrize("setting", ["evaluation.keep_best=true", "trainer.early_stopping_patience=9"])
def test_a_checkpoint_that_lost_the_best_weights_so_far(tmp_path, setting):
    folder = tmp_path / "o"
    watching = (setting, "evaluation.every=2", "evaluation.watch_images=2", "trainer.save_steps=2")
    short_run(write_coco(tmp_path / "data", 8), folder, *watching)
    last = sorted(folder.glob("checkpoint-*"))[-1]
    change_states(last, lambda states: None)
    check_whole(last)
    change_states(last, lambda states: states["BestCallback"]["attributes"].pop("best_map"))
    with pytest.raises(ConfigError, match="has lost what BestCallback had kept"):
        check_whole(last)
    change_states(last, lambda states: states.pop("BestCallback"))
    with pytest.raises(ConfigError, match="has lost what BestCallback had kept"):
        check_whole(last)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("at_line", [False, True])
def test_a_cut_configuration_is_not_filled_with_defaults(run, tmp_path, share, at_line):
    folder = shutil.copytree(run / "o", tmp_path / "o")
    path = folder / "config.yaml"
    check_saved_config(path)
    text = path.read_text()
    rest = text[: int(len(text) * share)]
    path.write_text(rest.rpartition("\n")[0] + "\n" if at_line else rest)
    copy = folder / "checkpoint-4" / "config.yaml"
    with pytest.raises(ConfigError, match=rf"config\.yaml is damaged \(.*\): copy {copy} over it, or say"):
        check_saved_config(path)
    shutil.copy(copy, path)
    check_saved_config(path)
    for kept in folder.glob("checkpoint-*"):
        cut(kept / "config.yaml")
    check_saved_config(path)
    path.write_text(text[:-20])
    with pytest.raises(ConfigError, match=r"is damaged \(.*\): say the settings of the run again"):
        check_saved_config(path)


def test_a_run_killed_after_its_last_step_takes_no_further_one(run, tmp_path):
    """Between the last checkpoint and the saved model: what is saved then is what the last step made."""
    folder = shutil.copytree(run / "o", tmp_path / "o")
    for name in ("boxtune.json", "model.safetensors"):
        (folder / name).unlink()
    result, _ = short_run(run / "data", folder, "trainer.save_steps=1", resume=True)
    assert result.num_steps == 4
    assert [step for step, _ in result.losses] == [1, 2, 3, 4]
    before, after = weights(run / "o"), weights(folder)
    assert all(after[name].equal(tensor) for name, tensor in before.items())


def test_files_of_finished_runs(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_text('{"a": ')
    for name in ("a.json", "b.json"):
        with pytest.raises(ModelError, match=f"{name} is missing or damaged .*: put it back, or start again"):
            read_json(tmp_path / name)
