"""Processes that read images: as many as were asked for, as long as the run and no longer."""

from __future__ import annotations

import multiprocessing
import os

import pytest
import torch

from boxtune.training import durable
from training.runs import short_run, weights, write_coco


@pytest.mark.parametrize("augment", ["none", "light"])
def test_readers_live_as_long_as_the_run(augment, tmp_path, monkeypatch):
    """And the run is the one that reads its images itself, in every epoch."""
    init = durable.leave_signals

    def note(then, worker):
        (tmp_path / f"reader-{os.getpid()}").touch()
        init(then, worker)

    monkeypatch.setattr(durable, "leave_signals", note)
    coco = write_coco(tmp_path / "coco")
    style = ("trainer.num_train_epochs=3", "trainer.max_steps=null", f"data.augment={augment}")
    style += ("trainer.per_device_train_batch_size=2",)
    alone, _ = short_run(coco, tmp_path / "alone", *style)
    assert not list(tmp_path.glob("reader-*"))
    result, _ = short_run(coco, tmp_path / "with-readers", *style, "data.num_workers=2")
    readers = {int(path.name.removeprefix("reader-")) for path in tmp_path.glob("reader-*")}
    assert len(readers) == 2
    assert not readers & {child.pid for child in multiprocessing.active_children()}
    assert len(result.losses) > 2
    assert result.losses == alone.losses
    expected = weights(tmp_path / "alone")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "with-readers").items())
