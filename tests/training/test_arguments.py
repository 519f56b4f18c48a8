"""What transformers' Trainer is told, and what it would do against what was asked."""

from __future__ import annotations

import inspect
import os

import pytest
import torch
from transformers import TrainingArguments
from transformers.utils import logging

from boxtune.config.load import load_config
from boxtune.errors import ConfigError
from boxtune.training.arguments import check_device, training_arguments


@pytest.mark.parametrize(
    ("device", "environment", "remedy"),
    [
        ("cpu", {}, None),
        ("cuda", {}, None),
        ("cuda:0", {}, None),
        ("cuda:1", {}, "runs on cuda:0; set CUDA_VISIBLE_DEVICES=1 and model.device=cuda."),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "4, 6"}, "set CUDA_VISIBLE_DEVICES=6 and model.device=cuda."),
        ("cuda:1", {"LOCAL_RANK": "1"}, None),
        ("cuda:0", {"LOCAL_RANK": "1"}, "runs on cuda:1; set model.device=cuda, and each process takes its own."),
    ],
)
def test_a_gpu_that_the_trainer_would_not_take_is_refused(device, environment, remedy, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if remedy is None:
        check_device(torch.device(device))
        return
    with pytest.raises(ConfigError) as caught:
        check_device(torch.device(device))
    assert f"model.device={device}" in str(caught.value)
    assert remedy in str(caught.value)


def test_transformers_still_takes_the_first_gpu():
    """Where it no longer does, `check_device` refuses what would work."""
    assert 'torch.device(\n                    "cuda:0"' in inspect.getsource(TrainingArguments._setup_devices.func)


FITTED = [
    "trainer.per_device_train_batch_size=1",
    "trainer.learning_rate=1e-4",
    "trainer.num_train_epochs=1",
    "trainer.max_steps=1",
    "data.num_workers=0",
    "model.device=cpu",
]


@pytest.mark.parametrize(
    ("has_gpu", "before", "after"), [(False, None, "cpu"), (False, "xpu", "xpu"), (True, None, None)]
)
def test_deepspeed_is_told_where_there_is_no_gpu(has_gpu, before, after, monkeypatch):
    """It would warn in every run of a CPU, also in those that do not use it."""
    monkeypatch.setenv("DS_ACCELERATOR", "put back at the end")
    monkeypatch.delenv("DS_ACCELERATOR")
    if before is not None:
        monkeypatch.setenv("DS_ACCELERATOR", before)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    training_arguments(load_config(None, FITTED))
    assert os.environ.get("DS_ACCELERATOR") == after


@pytest.mark.parametrize("rank", ["0", "1"])
def test_no_process_is_louder_than_it_was_told_to_be(rank, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    arguments = training_arguments(load_config(None, FITTED))
    monkeypatch.setattr(TrainingArguments, "should_log", rank == "0")
    before = logging.get_verbosity()
    try:
        logging.set_verbosity_error()
        assert arguments.get_process_log_level() == logging.ERROR
    finally:
        logging.set_verbosity(before)
