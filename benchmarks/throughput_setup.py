"""Models and pictures that speed is measured with: random weights of real sizes, JPEG files of random sizes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from boxtune.models.contract import default_contract
from boxtune.models.load import LoadedModel, load_model
from boxtune.models.tiny import set_stop_tokens, tiny_processor, vision_token_ids

CELL = 28  # pixels of an image token's side
SHAPES = {
    "7b": {
        "text_config": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "window_size": 112,
            "patch_size": 14,
        },
    },
    "tiny": {
        "text_config": {
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 1024,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4},
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 172,  # as awkward as 3420 is
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "window_size": 112,
            "patch_size": 14,
        },
    },
}


def add_step_arguments(parser: argparse.ArgumentParser, steps: int = 8) -> None:
    """What every script that times steps of training can be told.

    Args:
        parser: gets them.
        steps: by default.
    """
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--warmup", type=int, default=3, help="steps before those that count")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", type=int, default=8, help="that read pictures, of each process")
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a packed row")


def fewest_and_most(text: str) -> tuple[int, int]:
    """Two numbers of image tokens, as `256,1280`."""
    try:
        fewest, most = (int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"two whole numbers with a comma, not {text!r}") from None
    if not 4 <= fewest <= most:
        raise argparse.ArgumentTypeError(f"at least 4, and the fewest first, not {text!r}")
    return fewest, most


def named(wanted: str, names: Iterable[str]) -> list[str]:
    """Of the names, in their order, those that are wanted: names, or beginnings of names, with commas.

    Raises:
        SystemExit: nothing is named so.
    """
    known, chosen = list(names), set()
    for beginning in wanted.split(","):
        found = [beginning] if beginning in known else [name for name in known if name.startswith(beginning)]
        if not found:
            raise SystemExit(f"--rows: nothing begins with {beginning!r}; there are {', '.join(known)}")
        chosen.update(found)
    return [name for name in known if name in chosen]


def build(name: str, device: torch.device) -> LoadedModel:
    """A Qwen2.5-VL of the shape `name` with random weights, made on the device in the dtype that it trains in there;
    any other name is a model that boxtune loads.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in SHAPES:
        return replace(load_model(name, dtype=dtype, device=device), head=None)  # one that it brings is not measured
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

    processor = tiny_processor("qwen2_5_vl", max_pixels=1280 * CELL**2)
    ids = vision_token_ids(processor.tokenizer)
    shapes: dict[str, Any] = json.loads(json.dumps(SHAPES[name]))
    shapes["text_config"] |= {"bos_token_id": None, "eos_token_id": processor.tokenizer.eos_token_id}
    config = Qwen2_5_VLConfig(**shapes, **ids, tie_word_embeddings=False)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    set_stop_tokens(model, processor.tokenizer)
    model.name_or_path = f"random-{name}"
    return LoadedModel(model, processor, default_contract("qwen2_5_vl", processor), False, f"random-{name}")


def restore(model: Any, loaded: LoadedModel) -> None:
    """Leave the base model as it was made, for the next row."""
    if hasattr(model, "unload"):
        model.unload()
    bare = loaded.model
    bare.gradient_checkpointing_disable()
    bare.set_attn_implementation("sdpa")
    bare.zero_grad()
    if "_original_forward" in vars(bare):  # accelerate's autocast around the bare model
        bare.forward = bare._original_forward
        del bare._original_forward


def write_pictures(folder: Path, number: int, cells: tuple[int, int], seed: int = 0) -> Path:
    """JPEG files with so many image tokens each (`cells`: fewest and most), and one to three boxes, as JSONL."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    fewest, most = cells
    side = max(2, int(fewest**0.5 * 0.75)), int(most**0.5 * 1.25)
    lines: list[str] = []
    while len(lines) < number:
        rows, columns = (int(value) for value in draw.integers(*side, size=2, endpoint=True))
        if not fewest <= rows * columns <= most:
            continue
        coarse = draw.integers(0, 256, (rows * 2, columns * 2, 3), dtype=np.uint8)
        width, height = columns * CELL, rows * CELL
        name = f"{len(lines)}.jpg"
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / name, quality=88)
        boxes = []
        for _ in range(int(draw.integers(1, 4))):
            (x1, x2), (y1, y2) = (sorted(draw.integers(0, limit - 1, 2).tolist()) for limit in (width, height))
            boxes.append({"bbox_xyxy_px": [x1, y1, x2 + 1, y2 + 1], "label": "table"})
        lines.append(json.dumps({"image": name, "width": width, "height": height, "objects": boxes}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder
