"""What ten lost steps cost: runs with NaN in gradients, losses and weights beside the same runs without.

    python benchmarks/ten_faults.py --output-dir runs/faults                      # the embedded model; 40 CPU minutes
    python benchmarks/ten_faults.py --tiny --output-dir runs/try                  # a tiny model, a minute

Every seed is run twice, once with `--faults` steps spoiled, in turn the gradient of one parameter, the loss, and a
weight. Told are the mean loss of the last twenty steps, each seed's difference, and how far seeds lie apart by
themselves; every spoiled step must stand in `faults.jsonl`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from boxtune.config.load import load_config
from boxtune.training.callbacks.checkpoints import last_checkpoint
from boxtune.training.run import train
from boxtune.training.stability import FAULTS_FILE
from boxtune.training.trainer import DetectionTrainer

LAST = 20


@contextmanager
def spoiled(steps: set[int]) -> Iterator[None]:
    """Training whose given steps, from 1, meet a NaN: in a gradient, in the loss, in a weight, in turn."""
    plain, kinds = DetectionTrainer.compute_loss, dict(zip(sorted(steps), itertools.cycle("glw"), strict=False))

    def compute_loss(self: DetectionTrainer, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        kind = kinds.pop(self.state.global_step + 1, "")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if kind == "w":
            with torch.no_grad():
                trained[-1].view(-1)[0] = math.nan
        loss = plain(self, model, *args, **kwargs)
        if kind == "g":
            handle = trained[-1].register_hook(lambda gradient: (handle.remove(), gradient * math.nan)[1])
        return loss * math.nan if kind == "l" else loss

    DetectionTrainer.compute_loss = compute_loss  # type: ignore[method-assign]
    try:
        yield
    finally:
        DetectionTrainer.compute_loss = plain  # type: ignore[method-assign]


def last_loss(folder: Path, settings: list[str]) -> float:
    """Train, and tell the mean loss of the last steps."""
    train(load_config(None, [*settings, f"output_dir={folder}"]), console=Console(quiet=True))
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    return statistics.mean(losses[-LAST:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--faults", type=int, default=10)
    parser.add_argument("--seeds", default="0,1,2", help="with commas")
    parser.add_argument("settings", nargs="*", metavar="KEY.SUB=VALUE")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on small photos")
    given = parser.parse_args()
    model, photos = ("tiny:qwen2_vl", "&size=112") if given.tiny else ("embedded", "")
    settings = [f"model.name={model}", f"data.path=synthetic:nutrition?n=4000&seed=100{photos}"]
    settings += [f"trainer.max_steps={given.steps}", "logging.steps=1", "trainer.per_device_train_batch_size=4"]
    settings += ["evaluation.every=none", "evaluation.at_end=false", *given.settings]
    at = {round((index + 0.5) * given.steps / given.faults) for index in range(given.faults)}
    clean, met = [], []
    for seed in given.seeds.split(","):
        own = [*settings, f"trainer.seed={seed}"]
        clean.append(last_loss(given.output_dir / f"clean-{seed}", own))
        folder = given.output_dir / f"spoiled-{seed}"
        with spoiled(at):
            met.append(last_loss(folder, own))
        rows = [json.loads(line) for line in (folder / FAULTS_FILE).read_text().splitlines()]
        told = "all" if {row["step"] for row in rows} == at else f"{len(rows)} of {len(at)}"
        print(
            f"seed {seed}: {clean[-1]:.4f} clean, {met[-1]:.4f} with {given.faults} faults, "
            f"{met[-1] - clean[-1]:+.4f}; in the log: {told}",
            flush=True,
        )
    if len(clean) > 1:
        print(f"seeds by themselves: standard deviation {statistics.stdev(clean):.4f}")


if __name__ == "__main__":
    main()
