"""What a step of each recipe costs on a model of seven billion weights: seconds, pictures a second, peak memory.

    python benchmarks/recipe_cost.py --output-dir runs/recipe-cost             # one GPU with 80 GB, about eight minutes
    python benchmarks/recipe_cost.py --memory small --output-dir runs/small    # the same with checkpointing
    python benchmarks/recipe_cost.py --tiny --output-dir runs/try              # a minute, on a CPU

The model is a Qwen2.5-VL of random weights (cost does not depend on them), saved to a folder once and loaded from it by
every row as `boxtune train` loads it, in a process of its own. What else is `auto` is fitted as for any run.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from throughput_meter import Measured, Meter
from throughput_setup import add_step_arguments, build, named, write_pictures

from boxtune.config.load import load_config
from boxtune.config.recipes import stage_configs
from boxtune.config.schema import Config
from boxtune.data.dataset import load_dataset
from boxtune.models.devices import pick_device
from boxtune.training import run as boxtune_run
from boxtune.training.assembly import assemble
from boxtune.training.sets import RunData
from boxtune.training.speed import speed_up

ROWS = {  # name → recipe, stage, language model in 4 bits
    "r1-llm-only, 4 bits": ("r1", 0, True),
    "r1-llm-only, bf16": ("r1", 0, False),
    "r2-vision-only, bf16": ("r2", 0, False),
    "r3-two-stage, second stage, 4 bits": ("r3", 1, True),
    "r4-joint, bf16": ("r4", 0, False),
    "r4-joint, 4 bits": ("r4", 0, True),
}


def config_of(row: str, args: argparse.Namespace) -> Config:
    """The configuration of a row's stage; the first stage of r3 is r2."""
    recipe, stage, in_4_bits = ROWS[row]
    overrides = [
        f"recipe={recipe}",
        f"model.name={args.work_dir / 'model'}",
        f"data.path={args.work_dir / 'pictures'}",
        f"output_dir={args.work_dir / 'run'}",
        f"data.num_workers={args.workers}",
        f"model.memory={args.memory}",
        "collator.batching=packed",
        f"collator.token_budget={args.budget}",
        "data.augment=none",
        "evaluation.every=none",
        "evaluation.max_new_tokens=64",
        "logging.tensorboard=false",
        f"trainer.max_steps={args.warmup + args.steps}",
        "trainer.save_steps=100000",
        *args.overrides,
    ]
    config = stage_configs(load_config(None, overrides))[stage]
    return config.changed("model", quantize="nf4" if in_4_bits else "none", name=str(args.work_dir / "model"))


def measure(config: Config, args: argparse.Namespace) -> Measured:
    """Train as `boxtune train` does, for a few steps, without saving."""
    console, device = Console(stderr=True), pick_device(config.model.device)
    data = RunData(load_dataset(str(config.data.path), "train"))
    config, loaded = boxtune_run._load(config, device)
    config, collator, contract = boxtune_run._fit(config, loaded, data.train, device, None)
    model, _ = boxtune_run._prepare(config, loaded)
    speed = speed_up(model, config, device)
    console.print(str(speed), f"checkpointing {config.trainer.gradient_checkpointing}", highlight=False)
    trainer = assemble(config, model, loaded, data, collator, contract, {}, console, speed).trainer
    meter = Meter(trainer, args.warmup, args.steps)
    trainer.train()
    return meter.result()


def line(row: str, found: Measured, steps: int) -> str:
    """A row of the table, for people."""
    return (
        f"{row:36s} {found.seconds / steps:6.2f} s a step of {found.images / steps:5.1f} pictures and "
        f"{found.tokens / steps:6.0f} tokens, {found.images / found.seconds:6.2f} pictures a second, "
        f"{found.peak_bytes / 2**30:6.1f} GiB at most, {found.waited_seconds / found.seconds:.0%} waiting"
    )


def prepare(args: argparse.Namespace) -> None:
    """The model's folder and the pictures, once."""
    write_pictures(args.work_dir / "pictures", args.images, (6, 12) if args.tiny else (300, 1280))
    loaded = build("tiny" if args.tiny else "7b", pick_device())
    loaded.model.save_pretrained(args.work_dir / "model")
    loaded.processor.save_pretrained(args.work_dir / "model")
    del loaded
    gc.collect()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, help="where model and pictures lie; a temporary folder by default")
    parser.add_argument("--row", choices=tuple(ROWS), help="this one, in this process")
    parser.add_argument("--rows", default="", help="names or beginnings of names, with commas; all by default")
    add_step_arguments(parser)
    parser.add_argument("--memory", choices=("fast", "small"), default="fast", help="small: with checkpointing")
    parser.add_argument("overrides", nargs="*", metavar="KEY.SUB=VALUE", help="other settings, for all rows")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and small pictures, for a CPU")
    return parser.parse_args()


def main() -> None:
    args = parse()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.row is not None:
        found = measure(config_of(args.row, args), args)
        (args.work_dir / "row.json").write_text(json.dumps(asdict(found)))
        return
    with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
        args.work_dir = Path(folder)
        prepare(args)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        results, failed = {}, []
        for row in named(args.rows, ROWS):
            passed_on = [*args.overrides, *["--tiny"] * args.tiny]
            for name in ("steps", "warmup", "images", "workers", "memory", "budget"):
                passed_on += [f"--{name}", str(getattr(args, name))]
            command = [sys.executable, __file__, "--row", row, "--work-dir", folder]
            command += ["--output-dir", str(args.output_dir)]
            if subprocess.run([*command, *passed_on], check=False).returncode:
                print(f"{row:36s} failed, see above", flush=True)
                failed.append(row)
                continue
            found = Measured(**json.loads((args.work_dir / "row.json").read_text()))
            results[row] = asdict(found)
            print(line(row, found, args.steps), flush=True)
            (args.output_dir / "recipe_cost.json").write_text(json.dumps(results, indent=2) + "\n")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
