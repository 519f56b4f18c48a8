"""The table of detection speed, in small: each kind of row runs, and what is written is what transformers writes."""

from __future__ import annotations

import json

import pytest

from benchmarks.test_train_throughput import run


@pytest.mark.slow
def test_rows_of_both(tmp_path):
    said = run("detect_throughput.py", "--output-dir", str(tmp_path))
    rows = json.loads((tmp_path / "detect.json").read_text())
    heads = ("detection head", "detection head behind layer 1", "detection head behind layer 0")
    names = ("generate", "generate, static cache", "detect", *heads)
    assert set(rows) == {f"{name}, {batch}" for name in names for batch in (32, 1)}, said
    assert all(figures["images_per_second"] > 0 for figures in rows.values())
    assert rows["detect, 32"]["agreement"] == rows["detect, 1"]["agreement"] == 1.0
