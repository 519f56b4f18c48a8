"""What transformers' Trainer is told, and what it would do against what was asked."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import TrainingArguments

from boxtune.errors import ConfigError
from boxtune.training.arguments import check_device


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
