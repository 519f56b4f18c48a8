"""What goes through a trainer in a stretch of its steps, and what the machine could do at best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback


@dataclass
class Measured:
    """A stretch of training after its warm-up.

    Attributes:
        tokens: that are no padding.
        images: that they belong to.
        seconds: by the clock.
        cpu_seconds: of all threads of the main process; other programs on the machine hardly change them.
        waited_seconds: for data.
        peak_bytes: of the GPU.
        with_vision: the tower was run.
    """

    tokens: int = 0
    images: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    waited_seconds: float = 0.0
    peak_bytes: int = 0
    with_vision: bool = True


class Meter(TrainerCallback):
    """Counts what goes through a trainer, transformers' or one made of it, without waiting for the GPU in between."""

    def __init__(self, trainer: Any, warmup: int, steps: int) -> None:
        self.warmup, self.last, self.found, self.began = warmup, warmup + steps, Measured(), (0.0, 0.0)
        self.step = 0
        self.device = trainer.args.device
        step, fetch = trainer.training_step, trainer.get_batch_samples
        trainer.training_step = lambda model, inputs, *rest: (self.count(inputs), step(model, inputs, *rest))[1]
        trainer.get_batch_samples = partial(self.fetch, fetch)
        trainer.add_callback(self)

    def count(self, inputs: dict[str, Any]) -> None:
        if self.step < self.warmup:
            return
        inputs = inputs.get("inputs", inputs)
        mask = inputs.get("attention_mask")
        self.found.tokens = self.found.tokens + (inputs["input_ids"].numel() if mask is None else mask.sum())
        self.found.images += len(inputs["image_grid_thw"])

    def fetch(self, fetch: Callable[..., Any], *args: Any) -> Any:
        began = time.perf_counter()
        batches = fetch(*args)
        if self.step >= self.warmup:
            self.found.waited_seconds += time.perf_counter() - began
        return batches

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        if self.warmup == 0:
            self.began = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step
        if self.step not in (self.warmup, self.last):
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if self.step == self.warmup:
            self.began = time.perf_counter(), time.process_time()
        else:
            self.found.seconds = time.perf_counter() - self.began[0]
            self.found.cpu_seconds = time.process_time() - self.began[1]

    def result(self) -> Measured:
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        return replace(self.found, tokens=int(self.found.tokens), peak_bytes=peak)


def matmul_peak(device: torch.device) -> float:
    """Operations a second of a large product, in bf16 on a GPU."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in "lr")

    def ten() -> float:
        began = time.perf_counter()
        for _ in range(10):
            left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    ten()
    return 2 * size**3 * 10 / min(ten(), ten())
