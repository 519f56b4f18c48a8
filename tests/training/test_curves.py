"""Figures and pictures reach what a run logs to, and nothing else is touched."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from boxtune.training.curves import Curves


@pytest.fixture
def wandb(monkeypatch):
    """Weights & Biases as far as it is used; `logged` are the rows that it was given."""
    fake = SimpleNamespace(logged=[], Image=lambda picture: ("picture", picture.size))
    fake.run = SimpleNamespace(log=fake.logged.append)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_weights_and_biases(wandb):
    curves = Curves(wandb=True)
    assert curves.is_drawn
    curves.add_figures({"grad_norm/vision": 0.5}, 7)
    curves.add_pictures({"watched/a": Image.new("RGB", (4, 2))}, 8)
    assert wandb.logged == [
        {"grad_norm/vision": 0.5, "train/global_step": 7},
        {"watched/a": ("picture", (4, 2)), "train/global_step": 8},
    ]


def test_a_process_without_a_run_says_nothing(wandb):
    wandb.run = None
    curves = Curves(wandb=True)
    curves.add_figures({"a": 1.0}, 1)
    assert not curves.is_drawn
    assert wandb.logged == []


def test_nowhere():
    curves = Curves()
    curves.add_figures({"a": 1.0}, 1)
    curves.add_pictures({"b": Image.new("RGB", (4, 2))}, 1)
    assert not curves.is_drawn
