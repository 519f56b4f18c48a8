"""Settings that are said to be `auto`, fitted to the model, the data and the machine. The fitted ones are saved."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from boxtune.config.engines import engine_of, left_out
from boxtune.config.groups import without_frozen
from boxtune.config.schema import Config

SMALL_DATASET = 1000  # images: below, each is seen so often that changes of it help
SMALL_MODEL = 100_000_000  # parameters: below, training everything is cheap, and better than adapters
_STEPS_WANTED = 150  # in a budget of time: fewer steps of more images teach a small model less
_FLOPS_OF_CORE = {True: 130e9, False: 65e9}  # a core's arithmetic a second in bf16 or not, measured on Zen 4
DEFAULT_MAX_PIXELS = 1_003_520  # 1280 image tokens at 28 px: checkpoints allow 12.8 million, the usual cause of OOM


def fit_pixels(config: Config, own_limits: tuple[int, int]) -> Config:
    """Limits of the input image: the processor's own, but no more than `DEFAULT_MAX_PIXELS` unless asked for.

    One that is asked for takes the other with it where they would cross.
    """
    asked = config.model
    smallest, largest = own_limits[0], min(own_limits[1], DEFAULT_MAX_PIXELS)
    if asked.max_pixels != "auto":
        largest = asked.max_pixels
        smallest = min(smallest, largest)
    if asked.min_pixels != "auto":
        smallest = asked.min_pixels
        largest = max(smallest, largest) if asked.max_pixels == "auto" else largest
    return config.changed("model", min_pixels=smallest, max_pixels=largest)


def fit_quantize(config: Config) -> Config:
    """Nothing is packed into 4 bits unless it is asked for; a recipe has said so before."""
    return config.changed("model", quantize="none") if config.model.quantize == "auto" else config


def fit_speed(config: Config, device: torch.device) -> Config:
    """Packing, and the ways to the same numbers in less time that pay on this device."""
    fused = device.type == "cuda" and use_bf16(config, device)
    if config.collator.batching == "auto":
        masks = ("eager",) if fused else ("eager", "sdpa")  # they spend the squares between samples on a mask
        packs = (fused or device.type == "cpu") and config.model.attention not in masks
        config = config.changed("collator", batching="packed" if packs else "padded")
    if config.model.speedups != "auto":
        return config
    speedups = ["label_logits", "patch_product", "frozen_vision"]
    if fused or config.model.dtype != "bfloat16":  # on a CPU bf16 weights generate without autocast
        speedups.append("adapter_arithmetic")
    if fused:
        speedups += ["joined_adapters", "padded_vision", "compiled_blocks"]
    speedups = [name for name in speedups if name not in left_out(engine_of(config))]
    return config.changed("model", speedups=tuple(speedups))


def fit_areas(config: Config, num_parameters: int) -> Config:
    """Small models are trained whole, large ones by LoRA on the language model.

    Where LoRA or a 4-bit base is asked for, `auto` is what goes with it: an adapter folder holds no full weights. What
    has a rate of 0 is frozen.
    """
    asked = config.adapter
    areas = {"language": asked.language, "vision": asked.vision, "merger": asked.merger}
    low_rank = "lora" in areas.values() or config.model.quantize == "nf4"
    whole = num_parameters < SMALL_MODEL and not low_rank
    fitted = {"language": "full" if whole else "lora", "vision": "full" if whole else "frozen"}
    fitted["merger"] = fitted["vision"]
    chosen = {area: fitted[area] if how == "auto" else how for area, how in areas.items()}
    return without_frozen(config.changed("adapter", **chosen))


def fit_training(
    config: Config,
    num_parameters: int,
    num_images: int,
    device: torch.device,
    images_per_row: int | None = None,
    *,
    known_head: bool = False,
) -> Config:
    """Batch size, length, learning rate and the like.

    Args:
        config: its areas fitted.
        num_parameters: of the model.
        num_images: to train on.
        device: that the model is on.
        images_per_row: where rows hold as many samples as fit into a budget of tokens.
        known_head: the model brought its detection head along, which is trained further.
    """
    trainer = config.trainer
    small, on_gpu = num_parameters < SMALL_MODEL, device.type == "cuda"
    batch_size = trainer.per_device_train_batch_size
    if images_per_row is not None:
        batch_size = images_per_row
    elif batch_size == "auto":
        batch_size = (32 if on_gpu else 8) if small else (4 if on_gpu else 1)
        if not on_gpu and trainer.minutes is not None:
            batch_size = min(batch_size, _batch_within(config, trainer.minutes * 60, num_parameters, device))
        batch_size = min(num_images, batch_size)
    rate = trainer.learning_rate
    if rate == "auto" and {config.adapter.language, config.adapter.vision, config.adapter.merger} == {"frozen"}:
        rate = 5e-4 if known_head else 1e-3  # a detection head alone: at 1e-3 one that knows something forgets it first
    elif rate == "auto":
        rate = _rate_of_small(config) if small else _rate_of_large(config)
    epochs = trainer.num_train_epochs
    if epochs == "auto":
        assert isinstance(batch_size, int)
        # at least 300 steps: a handful of photos wants many rounds, a large set three
        epochs = max(3.0, round(300 * batch_size * trainer.gradient_accumulation_steps / num_images, 1))
    checkpointing = trainer.gradient_checkpointing
    config = config.changed(
        "trainer",
        per_device_train_batch_size=batch_size,
        learning_rate=rate,
        num_train_epochs=epochs,
        gradient_checkpointing=(not small and on_gpu) if checkpointing == "auto" else checkpointing,
    )
    workers = config.data.num_workers
    if workers == "auto":
        workers = min(8, (os.cpu_count() or 1) // 2)
    augment = config.data.augment
    if augment == "auto":  # the fewer images, the sooner they are known by heart
        keeps_features = config.model.vision_cache not in ("auto", "none")  # of pictures as they are
        augment = "light" if num_images < SMALL_DATASET and not keeps_features else "none"
    config = config.changed("data", num_workers=workers, augment=augment)
    eval_batch = config.evaluation.batch_size
    eval_batch = max(8, batch_size) if eval_batch == "auto" else eval_batch
    return config.changed("evaluation", batch_size=eval_batch, decoder=config.decoder)


def _rate_of_small(config: Config) -> float:
    """Of 2e-4, 5e-4, 1e-3 in full and 1e-3, 3e-3 by LoRA, the best for the embedded model: 120 steps of 4 images."""
    adapter = config.adapter
    return 1e-3 if "lora" in (adapter.language, adapter.vision, adapter.merger) else 2e-4


def _rate_of_large(config: Config) -> float:
    adapter = config.adapter
    if "lora" in (adapter.language, adapter.vision, adapter.merger):
        return 1e-4
    return 1e-5 if adapter.language == "full" else 5e-5


def _batch_within(config: Config, seconds: float, num_parameters: int, device: torch.device) -> int:
    """Images a step, 2 to 8, for `_STEPS_WANTED` steps in the time.

    Estimated, not measured, so that a run that is resumed comes to the same: 6 operations a parameter and patch of
    14 × 14 px, images at the largest size.
    """
    assert isinstance(config.model.max_pixels, int)
    operations = 6.0 * num_parameters * config.model.max_pixels / 14**2 * (1 + config.data.examples)
    speed = (os.cpu_count() or 1) * _FLOPS_OF_CORE[use_bf16(config, device)]
    affordable = seconds * speed / operations / _STEPS_WANTED
    return int(max(2, min(8, affordable)))


def frozen_dtype(config: Config, device: torch.device) -> torch.dtype:
    """dtype that weights are loaded in; trained ones become fp32 afterwards."""
    if config.model.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, config.model.dtype)


def pixel_dtype(config: Config, device: torch.device) -> torch.dtype:
    """dtype that the vision tower rounds pixels to: that of its own weights."""
    return torch.float32 if config.adapter.vision == "full" else frozen_dtype(config, device)


def use_bf16(config: Config, device: torch.device) -> bool:
    """Whether the arithmetic of a step runs in bf16: where the device is fast at it, or where it is asked for."""
    if config.model.dtype != "auto":
        return config.model.dtype == "bfloat16"
    if device.type == "cpu":
        return _cpu_computes_bf16()
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def _cpu_computes_bf16() -> bool:
    """Whether the processor has instructions for bf16; without them it is slower than fp32."""
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 may not tell
    return torch.backends.mkldnn.is_available() and any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))


def fit_answer_length(longest_answer: int) -> int:
    """Tokens that an answer may have: half as many again as the longest in the training set."""
    return longest_answer * 3 // 2 + 32
