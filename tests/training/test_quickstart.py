"""The quickstart from end to end, with fewer photos and steps."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from boxtune.models.places import embedded_folder
from boxtune.training import quickstart as module


def test_tiny_plan(tmp_path, monkeypatch):
    little = "synthetic:nutrition?n=2&seed=11&size=96"
    steps = [text for text in module.TINY_PLAN.overrides if "max_steps" not in text]
    plan = dataclasses.replace(
        module.TINY_PLAN, train_spec=little, val_spec=little, overrides=(*steps, "trainer.max_steps=2")
    )
    monkeypatch.setattr(module, "pick_plan", lambda: plan)
    said = io.StringIO()
    before, after = module.quickstart(tmp_path / "o", Console(file=said, width=300))
    for name, evaluation in (("before", before), ("after", after)):
        figures = json.loads((tmp_path / "o" / name / "metrics.json").read_text())
        assert figures == evaluation.metrics.to_dict()
        assert figures["num_images"] == 2
    page = (tmp_path / "o" / "report.html").read_text()
    assert module.NEXT in page
    assert "learns eight photos by heart" in page  # what kind of figure this is stands on the page
    assert "learns eight photos by heart" in said.getvalue()
    assert (tmp_path / "o" / "model" / "boxtune.json").is_file()


def test_the_tiny_plan_says_that_it_judges_what_it_trained_on():
    assert module.TINY_PLAN.train_spec == module.TINY_PLAN.val_spec
    assert "same eight" in module.TINY_PLAN.note
    assert module.EMBEDDED_PLAN.train_spec != module.EMBEDDED_PLAN.val_spec


def test_plan_follows_the_copy():
    try:
        embedded_folder()
    except ValueError:
        assert module.pick_plan() is module.TINY_PLAN
    else:
        pytest.skip("this copy has the embedded model")
