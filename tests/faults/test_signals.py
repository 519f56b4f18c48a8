"""A scheduler's SIGTERM and Ctrl-C end a run with a checkpoint, whenever they come and whoever else gets them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest
import torch
from transformers import TrainerControl

from boxtune.cli.main import _terminated
from boxtune.inference.detector import Detector
from boxtune.training import callbacks
from boxtune.training.aside import UNFINISHED
from boxtune.training.callbacks import interrupt
from boxtune.training.callbacks.checkpoints import checkpoints
from boxtune.training.callbacks.interrupt import InterruptCallback, LookEnded
from boxtune.training.durable import DurableTrainer
from faults.sittings import wait_for
from training.runs import SHORT, short_run, weights

RUN = ("trainer.max_steps=5", "trainer.save_steps=1", "data.val_fraction=0", "data.augment=light")


def assert_same(folder, unbroken) -> None:
    expected = weights(unbroken)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(folder).items())


@pytest.fixture(scope="module")
def unbroken(coco, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    return folder, short_run(coco, folder, *RUN)[0]


def test_sigterm_to_all_processes_of_a_run(coco, unbroken, sitting, tmp_path):
    """Those that read images get it too; another one comes while the checkpoint is written."""
    folder = tmp_path / "run"

    def terminate(pid: int) -> None:
        assert wait_for(lambda: checkpoints(folder), pid)
        os.killpg(pid, signal.SIGTERM)
        if wait_for((folder / UNFINISHED).exists, pid):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)

    command = ("train", "--data", str(coco), "--output-dir", str(folder), *SHORT, *RUN, "data.num_workers=2")
    code, said = sitting(tmp_path / "log", *command, meanwhile=terminate)
    assert code == 143, said
    assert f"Stopped by SIGTERM. Go on with: boxtune train --resume --output-dir {folder}" in " ".join(said.split())
    assert "Traceback" not in said
    done = int(checkpoints(folder)[-1].name.removeprefix("checkpoint-"))
    assert 1 <= done < 5  # the first one where the signal came before that was over
    assert not (folder / UNFINISHED).exists()
    resumed, _ = short_run(coco, folder, *RUN, resume=True)  # reads images itself, which makes no difference
    assert resumed.losses == unbroken[1].losses
    assert_same(folder, unbroken[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_it_saves(number, coco, unbroken, tmp_path, monkeypatch):
    """The checkpoint that is being written is the last: no further step is taken."""
    real = DurableTrainer._save_rng_state

    def save(self, folder):
        if self.state.global_step == 2:
            signal.raise_signal(number)
            monkeypatch.setattr(interrupt.time, "monotonic", lambda: float("inf"))  # not an echo of the first
            signal.raise_signal(number)
            monkeypatch.undo()
        real(self, folder)

    monkeypatch.setattr(DurableTrainer, "_save_rng_state", save)
    result, said = short_run(coco, tmp_path / "o", *RUN)
    assert (result.num_steps, result.stopped_by) == (2, number)
    assert [path.name for path in checkpoints(tmp_path / "o")] == ["checkpoint-1", "checkpoint-2"]
    assert ("the run ends as soon as it is whole" in said) is (number == signal.SIGINT)
    short_run(coco, tmp_path / "o", *RUN, resume=True)
    assert_same(tmp_path / "o", unbroken[0])


def test_while_it_looks_at_watched_images(coco, tmp_path, monkeypatch):
    """The look is broken off, and the step before it is saved."""
    watched = (
        *RUN,
        "trainer.save_steps=100",
        "evaluation.every=2",
        "evaluation.watch_images=1",
        "evaluation.watch_split=train",
    )
    whole, _ = short_run(coco, tmp_path / "whole", *watched)

    def predict(self, images, labels):
        torch.rand(7)  # what a look leaves behind is put back
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the look goes on")

    with monkeypatch.context() as patch:
        patch.setattr(Detector, "predict", predict)
        result, _ = short_run(coco, tmp_path / "o", *watched)
    assert (result.num_steps, result.stopped_by) == (2, signal.SIGTERM)
    assert checkpoints(tmp_path / "o")[-1].name == "checkpoint-2"
    resumed, _ = short_run(coco, tmp_path / "o", *watched, resume=True)
    assert resumed.losses == whole.losses


@pytest.fixture
def listening():
    said: list[str] = []
    callback = InterruptCallback(said.append)
    callback.on_train_begin(None, None, None)
    yield callback, said
    callback.release()


def at(seconds: float, monkeypatch) -> None:
    monkeypatch.setattr(callbacks.interrupt.time, "monotonic", lambda: seconds)


def test_what_a_second_signal_does(listening, monkeypatch):
    callback, said = listening
    at(0.0, monkeypatch)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)  # passed on by a launcher
    at(30.0, monkeypatch)
    signal.raise_signal(signal.SIGTERM)  # a scheduler insists; SIGKILL comes next
    control = TrainerControl()
    callback.on_step_end(None, None, control)
    assert (control.should_save, control.should_training_stop, callback.received) == (True, True, signal.SIGTERM)
    with callback.saving():
        signal.raise_signal(signal.SIGINT)
    assert len(said) == 1
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_look_is_ended_by_a_signal_during_or_before_it(listening):
    callback, _ = listening
    with pytest.raises(LookEnded), callback.looking():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(LookEnded), callback.looking():
        raise AssertionError("begins")


def test_outside_of_training(capsys):
    with pytest.raises(SystemExit) as end:
        _terminated(signal.SIGTERM, None)
    assert end.value.code == 143
    assert capsys.readouterr().err == "boxtune: ended by SIGTERM\n"


def test_while_it_loads(coco, sitting, tmp_path):
    log = tmp_path / "log"

    def terminate(pid: int) -> None:
        assert wait_for(lambda: log.is_file() and "Model: tiny" in log.read_text(), pid)
        os.kill(pid, signal.SIGTERM)

    code, said = sitting(
        log, "train", "--data", str(coco), "--output-dir", str(tmp_path / "o"), *SHORT, *RUN, meanwhile=terminate
    )
    assert code == 143
    assert said.splitlines()[-1] == "boxtune: ended by SIGTERM" or "Stopped by SIGTERM" in said
    assert "Traceback" not in said
