"""Settings that are said to be `auto`, fitted to the model, the data and the machine. The fitted ones are saved."""

from __future__ import annotations

import os
from typing import Any

import torch

from boxtune.config.schema import Config

SMALL_MODEL = 100_000_000  # parameters: below, training everything is cheap, and better than adapters
DEFAULT_MAX_PIXELS = 1_003_520  # 1280 image tokens at 28 px: checkpoints allow 12.8 million, the usual cause of OOM


def fit_pixels(config: Config, own_limits: tuple[int, int]) -> Config:
    """Limits of the input image: the processor's own, but no more than `DEFAULT_MAX_PIXELS` unless asked for."""
    smallest, largest = own_limits
    return _with(
        config,
        "model",
        min_pixels=smallest if config.model.min_pixels == "auto" else config.model.min_pixels,
        max_pixels=min(largest, DEFAULT_MAX_PIXELS) if config.model.max_pixels == "auto" else config.model.max_pixels,
    )


def fit_areas(config: Config, num_parameters: int) -> Config:
    """Small models are trained whole, large ones by LoRA on the language model."""
    small = num_parameters < SMALL_MODEL
    language = config.adapter.language
    language = ("full" if small else "lora") if language == "auto" else language
    rest = "full" if small and language != "lora" else "frozen"
    return _with(
        config,
        "adapter",
        language=language,
        vision=rest if config.adapter.vision == "auto" else config.adapter.vision,
        merger=rest if config.adapter.merger == "auto" else config.adapter.merger,
    )


def fit_training(config: Config, num_parameters: int, num_images: int, device: torch.device) -> Config:
    """Batch size, length, learning rate and the like."""
    trainer = config.trainer
    small, on_gpu = num_parameters < SMALL_MODEL, device.type == "cuda"
    batch_size = trainer.per_device_train_batch_size
    if batch_size == "auto":
        batch_size = min(num_images, (32 if on_gpu else 8) if small else (4 if on_gpu else 1))
    rate = trainer.learning_rate
    if rate == "auto":
        rate = 1e-4 if "lora" in (config.adapter.language,) and not small else 5e-4
    epochs = trainer.num_train_epochs
    if epochs == "auto":
        assert isinstance(batch_size, int)
        # at least 300 steps: a handful of photos wants many rounds, a large set three
        epochs = max(3.0, round(300 * batch_size * trainer.gradient_accumulation_steps / num_images, 1))
    checkpointing = trainer.gradient_checkpointing
    config = _with(
        config,
        "trainer",
        per_device_train_batch_size=batch_size,
        learning_rate=rate,
        num_train_epochs=epochs,
        gradient_checkpointing=(not small and on_gpu) if checkpointing == "auto" else checkpointing,
    )
    workers = config.data.num_workers
    if workers == "auto":
        workers = min(8, (os.cpu_count() or 1) // 2)
    config = _with(config, "data", num_workers=workers)
    eval_batch = config.evaluation.batch_size
    return _with(config, "evaluation", batch_size=max(8, batch_size) if eval_batch == "auto" else eval_batch)


def frozen_dtype(config: Config, device: torch.device) -> torch.dtype:
    """dtype that weights are loaded in; trained ones become fp32 afterwards."""
    if config.model.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, config.model.dtype)


def use_bf16(config: Config, device: torch.device) -> bool:
    """Whether the arithmetic of a step runs in bf16: where the device is fast at it, or where it is asked for."""
    if config.model.dtype != "auto":
        return config.model.dtype == "bfloat16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def fit_answer_length(longest_answer: int) -> int:
    """Tokens that an answer may have: half as many again as the longest in the training set."""
    return longest_answer * 3 // 2 + 32


def _with(config: Config, section: str, **values: Any) -> Config:
    part = getattr(config, section)
    return config.model_copy(update={section: part.model_copy(update=values)})
