"""A run that is killed at any moment goes on from its last whole checkpoint as if it had not been."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from boxtune.training.aside import UNFINISHED
from boxtune.training.callbacks.checkpoints import checkpoints
from boxtune.training.damage import check_whole
from faults.sittings import is_alive, wait_for
from training.runs import SHORT, weights

NUM_STEPS = 10
# whatever a run keeps between its steps is at work: Adam, schedule, phases, dropout, changed images, the best weights
RUN = (
    *SHORT,
    f"trainer.max_steps={NUM_STEPS}",
    "trainer.save_steps=1",
    "trainer.phases=[{until: 0.5, factors: {adapter: 0.5}}, {until: 1}]",
    "logging.steps=3",
    "adapter.language=lora",
    "adapter.lora.dropout=0.2",
    "data.augment=light",
    "data.val_fraction=0",
    "evaluation.every=4",
    "evaluation.watch_images=1",
    "evaluation.keep_best=true",
)


def command(coco: Path, folder: Path, *more: str) -> tuple[str, ...]:
    return ("train", "--data", str(coco), "--output-dir", str(folder), *RUN, *more)


def logged(folder: Path) -> list[dict]:
    rows = json.loads((checkpoints(folder)[-1] / "trainer_state.json").read_text())["log_history"]
    return [{k: v for k, v in row.items() if k not in ("waiting", "eval_seconds", "eval_runtime")} for row in rows]


def assert_same(folder: Path, unbroken: Path) -> None:
    assert logged(folder) == logged(unbroken)
    expected = weights(unbroken)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(folder).items())
    assert (
        json.loads((folder / "run.json").read_text())["best"] == json.loads((unbroken / "run.json").read_text())["best"]
    )
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == sorted(p.name for p in unbroken.glob("checkpoint-*"))
    assert not (folder / UNFINISHED).exists()


@pytest.fixture(scope="module")
def unbroken(coco, tmp_path_factory, sitting) -> tuple[Path, float]:
    """The folder of a run in one sitting, and the seconds that it took."""
    home = tmp_path_factory.mktemp("unbroken")
    began = time.monotonic()
    code, said = sitting(home / "log", *command(coco, home / "run"))
    assert code == 0, said
    return home / "run", time.monotonic() - began


def kill_at_random(pid: int, folder: Path, seconds: float, draw: random.Random) -> None:
    """At any time of a sitting, or, as often, while something is written."""
    if draw.random() < 0.5:
        end = time.monotonic() + draw.uniform(0, 0.7 * seconds)
        while time.monotonic() < end and is_alive(pid):
            time.sleep(0.001)
    else:
        for _ in range(draw.randint(0, 3)):  # some checkpoints later
            if not wait_for((folder / UNFINISHED).exists, pid) or not wait_for(
                lambda: not (folder / UNFINISHED).exists(), pid
            ):
                return
        if not wait_for((folder / UNFINISHED).exists, pid):
            return
        time.sleep(draw.uniform(0, 0.06))
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)


def test_killed_at_random_moments(coco, unbroken, sitting, tmp_path, request, capsys):
    rounds = request.config.getoption("--rounds", 3)
    draw = random.Random(time.time_ns() if rounds > 3 else 8)
    whole, seconds = unbroken
    folder, num_kills, in_the_save, num_runs = tmp_path / "0", 0, 0, 0
    while True:
        resume = ("--resume",) if (folder / "run.json").is_file() else ()
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        last = num_kills >= rounds
        code, said = sitting(
            tmp_path / "log",
            *command(coco, folder, *resume),
            meanwhile=lambda pid: last or kill_at_random(pid, folder, seconds, draw),  # noqa: B023
        )
        assert code in (0, -signal.SIGKILL), said
        if code == 0:
            assert_same(folder, whole)
            num_runs += 1
            if last:
                break
            folder = tmp_path / str(num_runs)
            continue
        num_kills += 1
        in_the_save += (folder / UNFINISHED).exists()
        for checkpoint in checkpoints(folder):
            check_whole(checkpoint)
    with capsys.disabled():
        print(f" {num_kills} kills, {in_the_save} of them while something was written; {num_runs} runs came out alike")


def test_killed_before_its_first_checkpoint_it_begins_again(coco, unbroken, sitting, tmp_path):
    folder = tmp_path / "run"

    def kill(pid: int) -> None:
        assert wait_for((folder / "run.json").is_file, pid)
        os.kill(pid, signal.SIGKILL)

    code, _ = sitting(tmp_path / "log", *command(coco, folder), meanwhile=kill)
    assert code == -signal.SIGKILL
    assert checkpoints(folder) == []
    code, said = sitting(tmp_path / "log", *command(coco, folder))
    assert code == 2
    assert "is not empty: choose another --output-dir, or go on with the run in it by --resume." in said
    code, said = sitting(tmp_path / "log", *command(coco, folder, "--resume"))
    assert code == 0, said
    assert "the run begins at its first step" in " ".join(said.split())
    assert_same(folder, unbroken[0])
