"""Processes that read images: as many as were asked for, as long as the run and no longer."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import time

import pytest
import torch

from boxtune.collators.shuffling import ShuffledSampler
from boxtune.errors import DataError
from boxtune.training import readers as readers_module
from boxtune.training.clock import RunClock
from boxtune.training.readers import RunLoader, stop_readers
from training.runs import short_run, weights, write_coco

STYLE = (
    "trainer.num_train_epochs=3",
    "trainer.max_steps=null",
    "trainer.per_device_train_batch_size=2",
    "adapter.language=lora",
    "adapter.lora.dropout=0.3",  # draws from the generator that torch's loaders draw from too
)


def readers() -> set[int | None]:
    return {child.pid for child in multiprocessing.active_children() if child.daemon}


@pytest.mark.parametrize("augment", ["none", "light"])
def test_readers_live_as_long_as_the_run(augment, tmp_path, monkeypatch):
    """And the run is the one that reads its images itself, in every epoch."""
    init = readers_module.leave_signals

    def note(then, worker):
        (tmp_path / f"reader-{os.getpid()}").touch()
        init(then, worker)

    monkeypatch.setattr(readers_module, "leave_signals", note)
    coco = write_coco(tmp_path / "coco")
    style = (*STYLE, f"data.augment={augment}")
    alone, _ = short_run(coco, tmp_path / "alone", *style)
    assert not list(tmp_path.glob("reader-*"))
    result, _ = short_run(coco, tmp_path / "with-readers", *style, "data.num_workers=2")
    seen = {int(path.name.removeprefix("reader-")) for path in tmp_path.glob("reader-*")}
    assert len(seen) == 2
    assert not seen & readers()
    assert len(result.losses) > 2
    assert result.losses == alone.losses
    expected = weights(tmp_path / "alone")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "with-readers").items())


@pytest.mark.parametrize("step", [1, 4])
def test_a_resumed_run_is_the_unbroken_one(step, tmp_path, monkeypatch):
    """It starts readers once for the rest of its epoch and once for all that follow."""
    coco = write_coco(tmp_path / "coco")
    style = (*STYLE, "data.augment=light", "data.num_workers=2")
    whole, _ = short_run(coco, tmp_path / "whole", *style)

    def stop(self, args, state, control, **kwargs):
        if state.global_step == step:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunClock, "on_step_begin", stop)
        first, _ = short_run(coco, tmp_path / "parted", *style)
    assert first.num_steps < whole.num_steps
    parted, _ = short_run(coco, tmp_path / "parted", *style, resume=True)
    assert parted.losses == whole.losses
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "parted").items())


def test_readers_end_with_a_run_that_fails(tmp_path, monkeypatch):
    """And nobody waits for them, though the error and all that hangs on it are still there."""
    coco = write_coco(tmp_path / "coco")

    def lose(self, args, state, control, **kwargs):
        if state.global_step == 4:
            for path in coco.rglob("*.png"):
                path.unlink()

    before = readers()
    with monkeypatch.context() as patch:
        patch.setattr(RunClock, "on_step_begin", lose)
        with pytest.raises(DataError) as caught:
            short_run(coco, tmp_path / "o", *STYLE, "data.num_workers=2")
    assert caught.value.__traceback__ is not None
    assert readers() <= before
    del caught
    began = time.monotonic()
    gc.collect()
    assert time.monotonic() - began < 4


def test_readers_are_not_asked_to_live_on_where_there_are_none(tmp_path):
    coco = write_coco(tmp_path / "coco")
    result, _ = short_run(coco, tmp_path / "o", "trainer.dataloader_persistent_workers=true")
    assert result.num_steps == 4


class Told:
    """Samples that say in which epoch they were read, and when."""

    def __init__(self) -> None:
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[int, int, float]:
        return int(self.epoch), index, time.monotonic()


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("goes_on", [True, False])
def test_readers_begin_an_epoch_before_it_is_asked_for(num_workers, goes_on):
    loader = RunLoader(
        Told(),
        ShuffledSampler(6, 2, seed=0),
        device=None,
        goes_on=lambda: goes_on,
        collate_fn=list,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    orders, early = [], []
    for epoch in range(3):
        loader.dataset.set_epoch(epoch)  # as a run does it
        loader.set_epoch(epoch)
        asked = time.monotonic()
        batches = list(itertools.islice(loader, 3))  # a run does not ask for more than there is
        rows = [row for batch in batches for row in batch]
        assert {row[0] for row in rows} == {epoch}
        orders.append([row[1] for row in rows])
        early.append(rows[0][2] < asked)
        time.sleep(0.3)  # the last step
    stop_readers(loader)
    assert [sorted(order) for order in orders] == [[0, 1, 2, 3, 4, 5]] * 3
    assert orders[0] != orders[1] != orders[2]
    assert early == [False, *[goes_on and num_workers > 0] * 2]
