"""Disks that are full, quotas, and folders that cannot be written: the last checkpoint stands, and one line says so."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from boxtune.errors import SaveError
from boxtune.training.aside import UNFINISHED
from boxtune.training.callbacks.checkpoints import checkpoints
from training.runs import short_run, weights

RUN = ("trainer.max_steps=4", "trainer.save_steps=1", "adapter.language=lora", "trainer.save_total_limit=9")


def mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of its own in memory; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)):
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def unbroken(coco, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    short_run(coco, folder, *RUN)
    return folder


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def assert_same(folder: Path, unbroken: Path) -> None:
    expected = weights(unbroken)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(folder).items())


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_full_disk(share, coco, unbroken, disk):
    """It fills up at several places of the third checkpoint."""
    size = num_bytes(unbroken / "checkpoint-4")
    room = int((2 + share) * size) + 64 * 1024  # files take whole pages
    assert mount("-o", f"remount,size={room}", str(disk))
    with pytest.raises(SaveError) as caught:
        short_run(coco, disk / "run", *RUN)
    said = str(caught.value)
    last = checkpoints(disk / "run")[-1]
    assert last.name in ("checkpoint-1", "checkpoint-2")
    assert said.startswith(f"Saving to {disk / 'run'} failed, the disk is full; the last good checkpoint is {last}: ")
    assert "\n" not in said
    assert not (disk / "run" / UNFINISHED).exists()  # what was written of the next one takes no room
    assert mount("-o", "remount,size=64m", str(disk))
    short_run(coco, disk / "run", *RUN, resume=True)
    assert_same(disk / "run", unbroken)


def test_disk_that_becomes_read_only(coco, unbroken, disk, monkeypatch):
    """As Linux makes one that has errors."""
    from boxtune.training.clock import RunClock

    def freeze(self, args, state, control, **kwargs):
        if state.global_step == 2:
            assert mount("-o", "remount,ro", str(disk))

    with monkeypatch.context() as patch:
        patch.setattr(RunClock, "on_step_begin", freeze)
        with pytest.raises(
            SaveError, match=r"Read-only file system.*; the last good checkpoint is .*checkpoint-2: make"
        ):
            short_run(coco, disk / "run", *RUN)
    assert mount("-o", "remount,rw", str(disk))
    short_run(coco, disk / "run", *RUN, resume=True)
    assert_same(disk / "run", unbroken)


def test_folder_that_cannot_be_written(coco, disk):
    assert mount("-o", "remount,ro", str(disk))
    with pytest.raises(SaveError, match=r"run cannot be made: Read-only file system\. Choose another --output-dir"):
        short_run(coco, disk / "run", *RUN)
    assert list(disk.iterdir()) == []


def test_quota(coco, unbroken, tmp_path, monkeypatch):
    """No file may be longer than the half of the weights."""
    from boxtune.training.clock import RunClock

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = (unbroken / "checkpoint-4" / "optimizer.pt").stat().st_size // 2

    def limit_now(self, args, state, control, **kwargs):
        if state.global_step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with monkeypatch.context() as patch:
            patch.setattr(RunClock, "on_step_begin", limit_now)
            with pytest.raises(SaveError, match=r"the last good checkpoint is .*checkpoint-2: make room"):
                short_run(coco, tmp_path / "run", *RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    short_run(coco, tmp_path / "run", *RUN, resume=True)
    assert_same(tmp_path / "run", unbroken)
