"""Data that changes under a run, and processes that read it and die: what was learned is saved."""

from __future__ import annotations

import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from boxtune.errors import DataError
from boxtune.training.aside import UNFINISHED
from boxtune.training.callbacks.checkpoints import checkpoints
from boxtune.training.clock import RunClock
from faults.sittings import wait_for
from training.runs import SHORT, short_run, weights

# no checkpoint is due: what is saved is saved because of the fault
RUN = ("trainer.max_steps=12", "trainer.save_steps=100", "data.val_fraction=0", "data.augment=light", "logging.steps=5")
STEP = 6  # of the second epoch


@pytest.fixture(scope="module")
def unbroken(coco, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    return folder, short_run(coco, folder, *RUN)[0]


def vanish(path: Path) -> None:
    path.unlink()


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60] + bytes(40))


def assert_goes_on(coco, folder, unbroken, *more: str) -> None:
    resumed, _ = short_run(coco, folder, *RUN, *more, resume=True)
    whole, result = unbroken
    assert resumed.losses == result.losses
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(folder).items())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("change", "said"), [(vanish, "does not exist"), (corrupt, "cannot be decoded")])
def test_an_image_in_the_second_epoch(change, said, num_workers, coco, unbroken, tmp_path, monkeypatch):
    data = shutil.copytree(coco, tmp_path / "data")

    def change_all(self, args, state, control, **kwargs):
        if state.global_step == STEP:
            for path in data.glob("[1-4].png"):
                change(path)

    with monkeypatch.context() as patch:
        patch.setattr(RunClock, "on_step_begin", change_all)
        with pytest.raises(DataError) as caught:
            short_run(data, tmp_path / "o", *RUN, f"data.num_workers={num_workers}")
    (last,) = checkpoints(tmp_path / "o")
    step = int(last.name.removeprefix("checkpoint-"))
    assert STEP <= step < 12
    assert re.fullmatch(
        rf"annotations.json, image \d: Image '{data}/\d\.png' {said}.*\. Saved at step {step}; go on with: "
        rf"boxtune train --resume --output-dir {tmp_path / 'o'}",
        str(caught.value),
    )
    shutil.rmtree(data)
    shutil.copytree(coco, data)
    assert_goes_on(data, tmp_path / "o", unbroken)


def children(pid: int) -> list[int]:
    """Of a process; none of one that has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def test_a_process_that_reads_images_is_killed(coco, unbroken, sitting, tmp_path):
    code, said, folder = 0, "", tmp_path

    def kill_one(pid: int) -> None:
        wait_for(lambda: checkpoints(folder), pid)
        wait_for(lambda: not (folder / UNFINISHED).exists(), pid)
        for reader in children(pid)[:1]:
            with suppress(ProcessLookupError):
                os.kill(reader, signal.SIGKILL)

    for attempt in range(16):  # a run so short may be over, or have read everything, before the signal comes
        folder = tmp_path / f"run-{attempt}"
        command = ("train", "--data", str(coco), "--output-dir", str(folder), *SHORT, *RUN)
        more = ("data.num_workers=2", "trainer.save_steps=5")
        code, said = sitting(tmp_path / f"log-{attempt}", *command, *more, meanwhile=kill_one)
        if code:
            break
    assert code == 2, said
    last = checkpoints(folder)[-1]
    line = said.splitlines()[-1]
    assert re.fullmatch(
        r"boxtune: A process that reads images died \(pid \d+, (killed by .*|it exited)\): .* set data.num_workers to "
        rf"fewer, or 0\. Saved at step {last.name.removeprefix('checkpoint-')}; go on with: boxtune train --resume "
        rf"--output-dir {folder}",
        line,
    )
    assert "Traceback" not in said
    assert_goes_on(coco, folder, unbroken)
