"""What several GPUs bring: LoRA by DDP on n of them against one, and full fine-tuning that no single one has room for.

    python benchmarks/processes.py --output-dir runs/processes                       # all GPUs; some four minutes
    python benchmarks/processes.py --rows lora --output-dir runs/lora                # by name, or all that begin so
    python benchmarks/processes.py --tiny --output-dir runs/try                      # two CPU processes, two minutes

The model is a Qwen2.5-VL of 7 billion random weights (speed does not depend on them). Every row is a command of its
own, started by torchrun, that puts a run together as `boxtune train` does and takes a few steps; every process has rows
of the same budget of tokens. Tokens are those of all processes. The efficiency of a row on n processes is its rate by n
times that of the same run in one process, a row of the same call.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from throughput_meter import Measured, Meter
from throughput_setup import add_step_arguments, build, named, write_pictures
from torch import distributed
from transformers.trainer_utils import SaveStrategy

from boxtune import processes
from boxtune.config.load import load_config
from boxtune.config.schema import Config
from boxtune.data.dataset import load_dataset
from boxtune.models.contract import set_pixel_limits
from boxtune.models.devices import pick_device
from boxtune.training import run as boxtune_run
from boxtune.training.assembly import assemble
from boxtune.training.auto import fit_speed
from boxtune.training.sets import RunData
from boxtune.training.speed import speed_up

ENGINES = Path(__file__).resolve().parents[1] / "configs" / "processes"
LORA = ("adapter.language=lora", "adapter.lora.rank=64", "adapter.lora.alpha=128")
FULL = ("adapter.language=full", "adapter.vision=full", "adapter.merger=full", "trainer.gradient_checkpointing=true")
ROWS: dict[str, tuple[bool, tuple[str, ...]]] = {  # name → in one process, settings
    "lora-one": (True, LORA),
    "lora-ddp": (False, LORA),
    "lora-fsdp2": (False, (*LORA, "trainer.fsdp=true")),
    "full-fsdp2": (False, (*FULL, "trainer.fsdp=true")),
    "full-zero2": (False, (*FULL, f"trainer.deepspeed={ENGINES / 'zero2.json'}")),
    "full-zero3": (False, (*FULL, f"trainer.deepspeed={ENGINES / 'zero3.json'}")),
}
BY_DEFAULT = ("lora-one", "lora-ddp", "full-fsdp2", "full-zero3")
BASELINES = {"lora-ddp": "lora-one", "lora-fsdp2": "lora-one"}


def config_of(row: str, args: argparse.Namespace) -> Config:
    """The configuration of a row."""
    overrides = [
        f"data.path={args.work_dir / 'pictures'}",
        f"output_dir={args.work_dir / row}",
        f"data.num_workers={args.workers}",
        "data.augment=none",
        "collator.batching=packed",
        f"collator.token_budget={args.budget}",
        "evaluation.at_end=false",
        "evaluation.every=none",
        "evaluation.max_new_tokens=64",
        "logging.tensorboard=false",
        f"trainer.max_steps={args.warmup + args.steps}",
        "trainer.save_steps=100000",
        *ROWS[row][1],
        *(("model.speedups=[label_logits,patch_product]",) if args.tiny else ()),
        *args.overrides,
    ]
    return load_config(None, overrides).changed("model", quantize="none")


def measure(config: Config, args: argparse.Namespace) -> list[Measured]:
    """Train for a few steps without saving; what each process measured."""
    console, device = Console(stderr=True, quiet=not processes.is_first()), pick_device(config.model.device)
    data = RunData(load_dataset(str(config.data.path), "train"))
    loaded = build("tiny" if args.tiny else "7b", device)
    config = fit_speed(config, device)
    limits = loaded.contract.min_pixels, loaded.contract.max_pixels
    set_pixel_limits(loaded.processor, *limits)
    config = config.changed("model", min_pixels=limits[0], max_pixels=limits[1])
    config, collator, contract = boxtune_run._fit(config, loaded, data.train, device, None)
    model, _ = boxtune_run._prepare(config, loaded)
    speed = speed_up(model, config, device)
    console.print(str(speed), f"checkpointing {config.trainer.gradient_checkpointing}", highlight=False)
    trainer = assemble(config, model, loaded, data, collator, contract, {}, console, speed).trainer
    trainer.args.save_strategy = SaveStrategy.NO  # which would write a hundred gigabytes behind the last step
    meter = Meter(trainer, args.warmup, args.steps)
    trainer.train()
    found = processes.of_all(meter.result)
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return found


def figures(found: list[Measured], steps: int) -> dict[str, float]:
    """Of all processes together; the slowest says how long it took."""
    seconds = max(one.seconds for one in found)
    return {
        "num_processes": len(found),
        "seconds_per_step": seconds / steps,
        "tokens_per_second": sum(one.tokens for one in found) / seconds,
        "images_per_second": sum(one.images for one in found) / seconds,
        "peak_gib": max(one.peak_bytes for one in found) / 2**30,
        "waiting_share": max(one.waited_seconds / one.seconds for one in found),
    }


def line(row: str, of: dict[str, float], efficiency: float | None) -> str:
    """A row of the table, for people."""
    shown = "" if efficiency is None else f", {efficiency:.0%} of {of['num_processes']:.0f} × one process"
    return (
        f"{row:12s} {of['num_processes']:2.0f} processes {of['seconds_per_step']:7.2f} s a step "
        f"{of['tokens_per_second']:8.0f} tok/s {of['images_per_second']:7.2f} img/s "
        f"{of['peak_gib']:6.1f} GiB at most each, {of['waiting_share']:.0%} waiting{shown}"
    )


def start(row: str, args: argparse.Namespace) -> bool:
    """Run a row by torchrun; whether it came to its end."""
    number = 1 if ROWS[row][0] else args.processes
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
    command += [__file__, "--row", row, "--work-dir", str(args.work_dir), "--output-dir", str(args.output_dir)]
    for name in ("steps", "warmup", "images", "workers", "budget"):
        command += [f"--{name}", str(getattr(args, name))]
    try:
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        done = subprocess.run(
            [*command, *["--tiny"] * args.tiny, *args.overrides],
            check=False,
            timeout=args.row_seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, help="where pictures lie; a temporary folder by default")
    parser.add_argument("--processes", type=int, help="a GPU each; all GPUs by default")
    parser.add_argument("--row", choices=tuple(ROWS), help="this one, in these processes")
    parser.add_argument(
        "--rows", default=",".join(BY_DEFAULT), help=f"names or beginnings of names, of {', '.join(ROWS)}"
    )
    parser.add_argument("--row-seconds", type=float, default=240, help="that a row may take")
    add_step_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY.SUB=VALUE", help="other settings, for all rows")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and small pictures, for a CPU")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.tiny:
        args.images, args.budget, args.workers, args.steps, args.warmup = 24, 256, 0, 2, 1
    args.processes = args.processes or torch.cuda.device_count() or 2
    if args.row is not None:
        found = measure(config_of(args.row, args), args)
        if processes.is_first():
            (args.work_dir / "row.json").write_text(json.dumps([asdict(one) for one in found]))
        return
    args.output_dir.mkdir(parents=True, exist_ok=True)
    rows, results, failed = named(args.rows, ROWS), {}, []
    if importlib.util.find_spec("deepspeed") is None and (left_out := [row for row in rows if "zero" in row]):
        print(f"{', '.join(left_out)}: left out, DeepSpeed is not installed (pip install deepspeed)", flush=True)
        rows = [row for row in rows if row not in left_out]
    with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
        args.work_dir = Path(folder)
        write_pictures(args.work_dir / "pictures", args.images, (12, 40) if args.tiny else (300, 1280))
        for row in rows:
            if not start(row, args):
                print(f"{row:12s} failed, see above", flush=True)
                failed.append(row)
                continue
            measured = [Measured(**one) for one in json.loads((args.work_dir / "row.json").read_text())]
            results[row] = figures(measured, args.steps)
            if (alone := results.get(BASELINES.get(row, ""))) is not None:
                rate = results[row]["tokens_per_second"]
                results[row]["efficiency"] = rate / alone["tokens_per_second"] / results[row]["num_processes"]
            print(line(row, results[row], results[row].get("efficiency")), flush=True)
            (args.output_dir / "processes.json").write_text(json.dumps(results, indent=2) + "\n")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
