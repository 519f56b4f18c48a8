"""Two processes come to the same judgement, whichever of them has the fault; and their clocks to the same rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from training.runs import in_processes, weights, write_coco

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    data = write_coco(folder / "coco", 12)
    in_processes(2, str(Path(__file__).with_name("two_judges.py")), str(folder), str(data))
    return folder


def both(home: Path, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    first, second = (json.loads((home / f"rank-{rank}.json").read_text())[run] for rank in (0, 1))
    return first, second


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(first[name] == second[name] for name in ("steps", "weights", "lowered", "num_faults"))


@pytest.mark.parametrize(
    ("run", "kind", "returned_to"), [("loss", "loss", None), ("loss alone", "loss", None), ("weights", "weights", 2)]
)
def test_a_fault_of_the_second_process_is_one_of_both(home, run, kind, returned_to):
    first, second = both(home, run)
    assert same(first, second)
    assert first["finite"]
    assert first["lowered"] == {"adapter": 0.5}
    (fault,) = [json.loads(line) for line in (home / run / "faults.jsonl").read_text().splitlines()]
    assert (fault["step"], fault["kind"], fault["returned_to"]) == (3, kind, returned_to)
    assert len(fault["sample_ids"]) == 2  # of the second process
    assert "Step 3: the" in first["said"]
    assert second["said"] == ""


def test_a_phase_that_freezes(home):
    first, second = both(home, "phases")
    assert same(first, second)
    assert first["num_faults"] == 0
    middle, last = weights(home / "phases" / "checkpoint-2"), weights(home / "phases")
    language = [name for name in middle if "visual" not in name]
    assert any(not torch.equal(middle[name], last[name]) for name in language)


def test_two_clocks_make_the_same_rates(home):
    first, second = both(home, "timed")
    assert same(first, second)
    assert first["steps"] > 1
