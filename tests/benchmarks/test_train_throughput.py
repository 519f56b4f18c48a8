"""The table of training speed, in small: every kind of row runs, and a row that fails does not end the others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--tiny", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_rows_of_both_trainers(tmp_path):
    pytest.importorskip("trl")
    wanted = "trl-fast,packed,padded-vision,boxtune,cached,cached-l,cached-w"  # names, and beginnings of names
    said = run("train_throughput.py", "--rows", wanted, "--output-dir", str(tmp_path))
    rows = {row["row"]: row for row in json.loads((tmp_path / "throughput.json").read_text())["rows"]}
    assert list(rows) == ["trl-fast", "packed", "padded-vision", "boxtune", "cached", "cached-long", "cached-whole"], (
        said
    )
    assert re.search(r"Vision cache: \d+ of 72 pictures came from it", said), said
    for name, row in rows.items():
        assert row["tokens_per_second"] > 0, name
        assert row["images"] >= 2, name
        assert 0 <= row["waiting_share"] < 1, name
    assert "vision MLPs 172 → 256 wide" in said


@pytest.mark.slow
def test_attention_is_as_exact_as_bf16_is(tmp_path):
    run("attention_parity.py", "--output-dir", str(tmp_path))
    rows = json.loads((tmp_path / "attention.json").read_text())
    assert all(row[part] < 0.03 for row in rows if "shape" in row for part in ("out", "dq", "dk", "dv"))
    assert all(row["cosine"] > 0.99 for row in rows if "model" in row)
