"""What it costs to judge every step and to keep a snapshot, beside one step of the same model.

    python benchmarks/stability_cost.py                                   # the embedded model in full, batches of 4
    python benchmarks/stability_cost.py adapter.language=lora model.name=FOLDER trainer.per_device_train_batch_size=1

Times are medians of `--steps`, each after whatever it needs is there; pictures are synthetic, in padded batches.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from boxtune.cli.inspect_tokens import collator_of_run
from boxtune.config.load import load_config
from boxtune.config.schema import StabilityConfig
from boxtune.data.dataset import load_dataset
from boxtune.losses import language
from boxtune.models.areas import LowRank, num_parameters, prepare_for_training
from boxtune.models.devices import pick_device
from boxtune.models.load import load_model
from boxtune.training import auto
from boxtune.training.groups import parameter_groups
from boxtune.training.snapshot import num_snapshot_bytes
from boxtune.training.stability import Stability


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("settings", nargs="*", metavar="KEY.SUB=VALUE")
    given = parser.parse_args()
    config = load_config(None, ["trainer.per_device_train_batch_size=4", *given.settings])
    device = pick_device(config.model.device)
    loaded = load_model(config.model.name, dtype=auto.frozen_dtype(config, device), device=device)
    config = auto.fit_areas(config, num_parameters(loaded.model))
    areas = {area: getattr(config.adapter, area) for area in ("vision", "merger", "language")}
    model = prepare_for_training(loaded.model, loaded.family, areas, LowRank(**config.adapter.lora.model_dump()))
    groups = parameter_groups(model, loaded.family)
    trained = [parameter for members in groups.values() for parameter in members]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    samples = load_dataset("synthetic:nutrition?n=8")
    batch = collator_of_run(config, samples.labels)(
        [samples[index] for index in range(int(config.trainer.per_device_train_batch_size))]
    )
    inputs = {name: value.to(device) for name, value in batch["inputs"].items()}
    targets = {name: value.to(device) for name, value in batch["targets"].items() if isinstance(value, torch.Tensor)}

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=auto.use_bf16(config, device)):
            logits = model(**inputs, **language.forward_options(targets), use_cache=False).logits
        loss = language.total(logits, targets) / language.count(targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def seconds(what: Callable[[], object]) -> float:
        what()
        found = []
        for _ in range(given.steps):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            began = time.perf_counter()
            what()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    with tempfile.TemporaryDirectory() as folder:
        stability = Stability(StabilityConfig(), groups, 50, Path(folder), print)

        def judge() -> None:
            stability.note(torch.ones((), device=device), ())
            assert stability.judge(optimizer, 1)

        of_step, of_judge = seconds(step), seconds(judge)
        of_verify = seconds(lambda: stability.verify(optimizer, 1))
        of_copy = seconds(lambda: stability.take_snapshot(optimizer, 1))
    share = (of_judge + (of_verify + of_copy) / 50) / of_step
    print(
        f"{sum(p.numel() for p in trained):,} trained parameters, "
        f"{num_snapshot_bytes(trained) / 2**20:.0f} MiB a snapshot"
    )
    for name, time_taken in {"step": of_step, "judging": of_judge, "verifying": of_verify, "copying": of_copy}.items():
        print(f"{name:<10}{1e3 * time_taken:10.1f} ms")
    print(f"together, with a snapshot at every fiftieth step: {share:.2%} of a step")


if __name__ == "__main__":
    main()
