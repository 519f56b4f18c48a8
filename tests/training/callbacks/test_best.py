"""The best weights are kept and saved, and a run that gains nothing ends."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from boxtune.data.dataset import load_dataset
from boxtune.errors import ConfigError, DataError
from boxtune.inference.detector import load_detector
from boxtune.training.callbacks.best import BestCallback
from boxtune.training.clock import RunClock
from boxtune.training.recipes import finished_result
from boxtune.training.watch import Watch
from training.runs import short_run, weights, write_coco

KEEP = ("evaluation.every=1", "evaluation.keep_best=true", "evaluation.watch_images=2", "trainer.save_total_limit=1")


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", 10)


@pytest.fixture
def scripted(monkeypatch):
    """Looks that find what the test says, in its order; the model is asked all the same."""

    def script(*found: float) -> None:
        left, real = list(found), Watch.look
        monkeypatch.setattr(Watch, "look", lambda self, model: real(self, model) | {"eval_map": left.pop(0)})

    return script


# ---- one evaluation after the other ---------------------------------------------------------------------------------


def told(best: BestCallback, *found: float | None, first: int = 1) -> list[tuple[bool, bool]]:
    wishes = []
    for step, value in enumerate(found, start=first):
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        state = SimpleNamespace(global_step=step, is_world_process_zero=True)
        best.on_evaluate(None, state, control, metrics={} if value is None else {"eval_map": value})
        wishes.append((control.should_save, control.should_training_stop))
    return wishes


@pytest.mark.parametrize(
    ("found", "step", "saved"),
    [
        ([0.1, 0.3, 0.2], 2, [1, 2]),
        ([0.3, 0.1, 0.3], 3, [1, 3]),  # of equal ones the later
        ([0.0, 0.0], 2, [1, 2]),
        ([None, 0.2, None], 2, [2]),
    ],
)
def test_best_step(found, step, saved):
    best = BestCallback(keep=True, patience=None, watched="w")
    assert [number for number, (save, _) in enumerate(told(best, *found), start=1) if save] == saved
    assert best.kept_step == step
    only_patience = BestCallback(keep=False, patience=9, watched="w")
    assert not any(save for save, _ in told(only_patience, *found))
    assert (only_patience.best_step, only_patience.kept_step) == (step, None)


@pytest.mark.parametrize(
    ("found", "ended"),
    [
        ([0.3, 0.2, 0.1], 3),
        ([0.3, 0.3, 0.3], 3),  # as good is no gain
        ([0.3, 0.2, 0.4, 0.1, 0.2], 5),
        ([0.0, 0.0, 0.0, 0.0], None),  # nothing is learned yet
        ([0.1, 0.0, 0.0, 0.0], None),
    ],
)
def test_patience(found, ended):
    wishes = told(BestCallback(keep=False, patience=2, watched="w"), *found)
    assert next((number for number, (_, stop) in enumerate(wishes, start=1) if stop), None) == ended
    assert all(save for save, stop in wishes if stop)


def begun_again(best: BestCallback, folder: Path, saved: dict) -> BestCallback:
    state = SimpleNamespace(global_step=9, stateful_callbacks={"BestCallback": json.loads(json.dumps(saved))})
    best.on_train_begin(SimpleNamespace(output_dir=str(folder)), state, None)
    return best


def test_what_is_known_goes_through_a_checkpoint(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "boxtune.json").touch()
    first = BestCallback(keep=True, patience=3, watched="w")
    told(first, 0.1, 0.5, 0.4)
    second = begun_again(BestCallback(keep=True, patience=3, watched="w"), tmp_path, first.state())
    assert second.state() == first.state()
    assert told(second, 0.4, 0.4, first=4) == [(False, False), (True, True)]
    # ended by its patience, and started again by the user: it waits anew
    assert begun_again(BestCallback(keep=True, patience=3, watched="w"), tmp_path, second.state()).num_without_gain == 0
    others = begun_again(BestCallback(keep=True, patience=3, watched="other images"), tmp_path, first.state())
    assert others.best_step is None
    shutil.rmtree(tmp_path / "checkpoint-2")
    gone = begun_again(BestCallback(keep=True, patience=3, watched="w"), tmp_path, first.state())
    assert gone.best_step is None


# ---- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["adapter.language=full", "adapter.language=lora"])
def test_the_best_weights_are_saved(style, coco, tmp_path, scripted):
    scripted(0.1, 0.5, 0.5, 0.2, 0.3)
    folder = tmp_path / "o"
    result, said = short_run(coco, folder, style, *KEEP, "trainer.max_steps=5")
    assert (result.num_steps, result.best_step) == (5, 3)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-5"]
    best, last = weights(folder / "checkpoint-3"), weights(folder / "checkpoint-5")
    saved = weights(folder)
    assert all(torch.equal(tensor, best[name]) for name, tensor in saved.items())
    assert not all(torch.equal(tensor, last[name]) for name, tensor in saved.items())
    assert "2 held out of train to watch" in said
    assert "Saved: the weights of step 3, with AP 0.500 on the watched images the best of 5 evaluations." in said
    record = json.loads((folder / "run.json").read_text())
    assert record["best"] == {"step": 3, "map": 0.5, "num_evaluations": 5}
    assert (record["data"]["num_images"], len(record["watched"])) == (8, 2)
    assert load_detector(str(folder), "cpu").labels == ("box",)
    assert finished_result(folder).best_step == 3


def test_the_best_weights_are_judged_at_the_end(coco, tmp_path, scripted):
    scripted(0.5, 0.1, 0.1)
    style = ("evaluation.at_end=true", "trainer.max_steps=3", "trainer.learning_rate=1e-2")
    short_run(coco, tmp_path / "o", *KEEP, *style)
    answers = [json.loads(line) for line in (tmp_path / "o" / "answers.jsonl").read_text().splitlines()]
    detector = load_detector(str(tmp_path / "o"), "cpu")
    images = {sample.id: sample.image for sample in load_dataset(coco)}
    assert [answer["text"] for answer in answers] == [
        prediction.text for prediction in detector.predict(images[answer["id"]] for answer in answers)
    ]


def test_a_run_without_gain_ends(coco, tmp_path, scripted):
    scripted(0.2, 0.1, 0.2, 0.9)
    style = ("evaluation.every=1", "trainer.early_stopping_patience=2", "evaluation.watch_images=2")
    result, said = short_run(coco, tmp_path / "o", *style, "trainer.max_steps=9")
    assert (result.num_steps, result.best_step, result.stopped_by) == (3, None, None)
    assert "Ended at step 3: no gain in AP for 2 evaluations" in said
    assert (tmp_path / "o" / "checkpoint-3" / "boxtune.json").is_file()
    last = weights(tmp_path / "o" / "checkpoint-3")
    assert all(torch.equal(tensor, last[name]) for name, tensor in weights(tmp_path / "o").items())


def test_resumed_run_keeps_the_best_of_the_first_sitting(coco, tmp_path, scripted, monkeypatch):
    scripted(0.1, 0.6, 0.3, 0.4, 0.5)
    folder, real = tmp_path / "o", RunClock.on_step_begin

    def interrupt(self, args, state, control, **kwargs):
        real(self, args, state, control, **kwargs)
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunClock, "on_step_begin", interrupt)
        broken, _ = short_run(coco, folder, *KEEP, "trainer.max_steps=5")
    assert (broken.num_steps, broken.stopped_by) == (3, signal.SIGINT)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    with pytest.raises(ConfigError, match=r"evaluation\.keep_best is False, but the run in .* was made with True"):
        short_run(coco, folder, *KEEP, "evaluation.keep_best=false", "trainer.max_steps=5", resume=True)
    result, said = short_run(coco, folder, *KEEP, "trainer.max_steps=5", resume=True)
    assert (result.num_steps, result.best_step) == (5, 2)
    assert "the best of 5 evaluations" in said
    best = weights(folder / "checkpoint-2")
    assert all(torch.equal(tensor, best[name]) for name, tensor in weights(folder).items())


def test_no_object_to_choose_by(tmp_path):
    data = write_coco(tmp_path / "coco", 10)
    content = json.loads((data / "annotations.json").read_text())
    content["annotations"] = content["annotations"][:1]  # one image of ten
    (data / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"No object is in the 1 images that are watched.*raise evaluation\.watch_im"):
        short_run(data, tmp_path / "o", *KEEP, "evaluation.watch_images=1", "trainer.seed=1")
