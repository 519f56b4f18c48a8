"""Runs one after the other in each of several processes, in which only the second has a fault.

`torchrun … two_judges.py FOLDER DATA`: what each process came to is written to `FOLDER/rank-N.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from boxtune.training.trainer import DetectionTrainer
from training.runs import short_run
from training.test_stability import spoiled

ALIKE = ("model.device=cpu", "trainer.schedule=constant", "trainer.warmup_fraction=0", "trainer.max_steps=4")
FULL = ("adapter.language=full", "adapter.vision=full", "adapter.merger=full")
RUNS: dict[str, tuple[tuple[str, ...], tuple[str, float] | None]] = {
    "loss": (("adapter.language=lora",), ("loss", math.nan)),
    "loss alone": (("adapter.language=lora",), ("constant", math.inf)),
    "weights": (("adapter.language=lora", "trainer.stability.snapshot_steps=1"), ("weights", math.nan)),
    "phases": (
        (*FULL, "trainer.phases=[{until: 0.5, factors: {language: 0}}, {until: 1}]", "trainer.save_steps=2"),
        None,
    ),
    "timed": ((*FULL, "trainer.max_steps=null", "trainer.minutes=0.04", "trainer.schedule=cosine"), None),
}


def main(home: Path, data: Path) -> None:
    rank, found = int(os.environ["RANK"]), {}
    patch = pytest.MonkeyPatch()
    trained: list[Any] = []
    train = DetectionTrainer.train
    patch.setattr(
        DetectionTrainer, "train", lambda self, *args, **kwargs: (trained.append(self), train(self, *args, **kwargs))[1]
    )
    for name, (style, fault) in RUNS.items():
        spoil = spoiled(patch, {3}, *fault) if fault and rank == 1 else nullcontext()
        with spoil:
            result, said = short_run(data, home / name, *ALIKE, *style)
        trainer = trained[-1]
        weights = [p.detach() for p in trainer.model.parameters() if p.requires_grad]
        digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights)).hexdigest()
        found[name] = {
            "steps": result.num_steps,
            "weights": digest,
            "finite": all(bool(torch.isfinite(weight).all()) for weight in weights),
            "lowered": trainer.stability.lowered,
            "num_faults": trainer.stability.num_faults,
            "said": said,
        }
    (home / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
