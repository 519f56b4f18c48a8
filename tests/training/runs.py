"""Little data sets and short runs for the tests of training and of the command line."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from boxtune.config.load import load_config
from boxtune.config.schema import Config
from boxtune.training.callbacks.checkpoints import last_checkpoint
from boxtune.training.clock import RunClock
from boxtune.training.run import TrainResult, train

SHORT = (
    "model.name=tiny:qwen2_vl",
    "model.max_pixels=12544",
    "model.dtype=float32",  # runs are compared to rounding, and the default of a processor may be bf16
    "trainer.per_device_train_batch_size=2",
    "trainer.max_steps=4",
    "data.num_workers=0",
    "data.augment=none",
    "logging.tensorboard=false",
    "logging.steps=1",
    "evaluation.at_end=false",
    "evaluation.max_new_tokens=12",
)


def write_coco(
    folder: Path,
    num_images: int = 6,
    *,
    labels: Sequence[str] = ("box",),
    size: tuple[int, int] = (90, 80),
    seed: int = 0,
) -> Path:
    """Grey pictures with one red box each, or two in every third; labels take turns."""
    noise = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, num_images + 1):
        pixels = np.full((size[1], size[0], 3), 220, np.uint8)
        for _ in range(1 + (number % 3 == 0)):
            x, y, w, h = (int(v) for v in (*noise.integers(0, np.array(size) // 2), *noise.integers(15, 40, 2)))
            pixels[y : y + h, x : x + w] = (200, 30, 30)
            category = len(annotations) % len(labels) + 1
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": [x, y, w, h]}
            )
        name = f"{number}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
    categories = [{"id": number, "name": label} for number, label in enumerate(labels, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def settings(data: Path, output_dir: Path, *overrides: str) -> Config:
    return load_config(None, [f"data.path={data}", f"output_dir={output_dir}", *SHORT, *overrides])


def short_run(data: Path, output_dir: Path, *overrides: str, resume: bool = False) -> tuple[TrainResult, str]:
    """The result, and what was said."""
    said = io.StringIO()
    result = train(settings(data, output_dir, *overrides), resume=resume, console=Console(file=said, width=500))
    return result, said.getvalue()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter if adapter.is_file() else folder / "model.safetensors")


def history(folder: Path) -> list[dict[str, Any]]:
    """What the trainer logged until the last checkpoint."""
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None
    return json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard was told in a run."""
    (file,) = (folder / "runs").rglob("events.*")
    found = EventAccumulator(str(file), size_guidance={"images": 0})
    found.Reload()
    return found


def interrupt_after(steps: int, monkeypatch) -> None:
    """Ctrl-C when so many steps are done."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunClock, "on_step_begin", on_step_end)


def in_processes(
    num_processes: int, program: str, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A program in several processes, as torchrun starts them on a port that is free; it must succeed.

    Args:
        num_processes: on the CPU, of one thread each.
        program: a file, or `-m` and a module among the arguments.
        arguments: its own.
        cwd: where it runs.
    """
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    done = subprocess.run(
        [*launch, program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done


def in_turn(commands: Sequence[Sequence[str]], cwd: Path | None = None) -> str:
    """Commands of boxtune one after the other in two processes, which import everything once; what they said."""
    done = in_processes(2, str(Path(__file__).with_name("in_turn.py")), json.dumps(commands), cwd=cwd)
    return done.stdout + done.stderr
