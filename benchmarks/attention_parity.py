"""Attention kernels on a GPU: how far each is from fp32, and how long it takes forwards and backwards.

    python benchmarks/attention_parity.py --output-dir runs/attention     # one GPU, a minute; --tiny tries it on a CPU

Shapes are those of Qwen2.5-VL-7B: the language model on a packed row of samples (28 heads, 4 of keys, causal), the
vision tower within images and within windows of 64 patches. Then a whole small model of each family: loss and gradients
of a packed batch in bf16, by each kernel, against eager attention of the padded batch in fp32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from boxtune.collators.batch import Batch, Collator
from boxtune.collators.encode import SampleEncoder
from boxtune.data.conversation import ConversationStyle
from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.losses import language
from boxtune.models.attention import AttentionChoice, use_attention
from boxtune.models.attention_kernels import (
    PACKAGES,
    SEGMENTS,
    VARLEN,
    attend_by_segments,
    check_package,
    check_varlen,
    load_kernel,
)
from boxtune.models.devices import pick_device
from boxtune.models.families import FAMILIES, family
from boxtune.models.tiny import build_tiny


def usable_kernels(device: torch.device) -> list[str]:
    """Keys of the kernels that run here, the exact one among them."""
    if device.type != "cuda":
        return [SEGMENTS]
    packages = [package.key for package in PACKAGES if check_package(package, "cuda").usable]
    return [SEGMENTS, *([VARLEN] if check_varlen().usable else []), *packages]


def shapes(tokens: int) -> dict[str, tuple[list[int], int, int, int, bool]]:
    """Name → lengths of the samples, heads, heads of keys, width of a head, causal."""
    draw = np.random.default_rng(0)

    def lengths(total: int, low: int, high: int) -> list[int]:
        drawn: list[int] = []
        while sum(drawn) < total:
            drawn.append(min(int(draw.integers(low, high)), total - sum(drawn)))
        return drawn

    return {
        "language model": (lengths(tokens, tokens // 20, tokens // 6), 28, 4, 128, True),
        "vision, images": (lengths(4 * tokens, tokens // 8, tokens // 2), 16, 16, 80, False),
        "vision, windows": (lengths(4 * tokens, 32, 65), 16, 16, 80, False),
    }


def compare(
    kernel: Callable[..., torch.Tensor], shape: Any, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Largest error of output and gradients, in units of the largest entry, and milliseconds of a pass both ways."""
    lengths, heads, groups, width, causal = shape
    borders = torch.tensor([0, *np.cumsum(lengths)], device=device, dtype=torch.int32)
    noise = torch.Generator(device).manual_seed(0)
    make = lambda count: torch.randn(sum(lengths), count, width, generator=noise, device=device)  # noqa: E731
    exact = [make(heads), make(groups), make(groups)]
    upstream = make(heads)

    def run(attend: Callable[..., torch.Tensor], like: torch.dtype) -> list[torch.Tensor]:
        leaves = [tensor.to(like).requires_grad_() for tensor in exact]
        out = attend(*leaves, borders, max(lengths), width**-0.5, causal)
        return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(like))]

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    found, expected = run(kernel, dtype), run(attend_by_segments, torch.float32)
    began = wait()
    for _ in range(5):
        run(kernel, dtype)
    seconds = (wait() - began) / 5
    errors = {
        name: float((a.float() - b).abs().max() / b.abs().max())
        for name, a, b in zip(("out", "dq", "dk", "dv"), found, expected, strict=True)
    }
    return {**errors, "milliseconds": seconds * 1000}


def batches(model_type: str, processor: Any) -> tuple[Batch, Batch]:
    """Four pictures, padded and packed."""
    draw = np.random.default_rng(0)
    boxes = Detections([[5, 5, 60, 50]], ["table"])
    samples = []
    for height, width in ((112, 160), (150, 90), (80, 200), (170, 170)):
        picture = Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))
        samples.append(Sample(f"{height}", picture, boxes, ""))
    encoder = SampleEncoder(processor, ConversationStyle(family(model_type).codec, ("table",)))
    return Collator(encoder)(samples), Collator(encoder, batching="packed")(samples)


def gradients(model: Any, batch: Batch, device: torch.device, bf16: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss a label, and the gradient of every parameter."""
    move = lambda part: {k: v.to(device) if torch.is_tensor(v) else v for k, v in part.items()}  # noqa: E731
    targets = move(batch["targets"])
    model.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        outputs = model(**move(batch["inputs"]), **language.forward_options(targets), use_cache=False)
    loss = language.total(outputs.logits, targets) / language.count(targets)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare_model(model_type: str, key: str, device: torch.device) -> dict[str, float]:
    """Loss, and the angle between all gradients (1: the same direction), of bf16 against fp32 and eager attention."""
    model, processor = build_tiny(model_type)
    model = model.to(device)
    padded, packed = batches(model_type, processor)
    model.set_attn_implementation("eager")
    expected_loss, expected = gradients(model, padded, device, bf16=False)
    use_attention(model, AttentionChoice(key, key, "measured"))
    loss, found = gradients(model, packed, device, bf16=True)
    a, b = (torch.cat([part[name].flatten() for name in sorted(expected)]) for part in (found, expected))
    return {"loss": loss, "loss_fp32": expected_loss, "cosine": float(torch.cosine_similarity(a, b, dim=0))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="few tokens, for a CPU")
    args = parser.parse_args()
    device = pick_device()
    dtype = torch.bfloat16
    rows: list[dict[str, Any]] = []
    for key in usable_kernels(device):
        for name, shape in shapes(64 if args.tiny else 8192).items():
            figures = compare(load_kernel(key), shape, device, dtype)
            rows.append({"kernel": key, "shape": name, **figures})
            print(
                f"{key:18s} {name:16s} {figures['milliseconds']:8.2f} ms  of the largest entry: "
                + "  ".join(f"{part} {figures[part]:.1e}" for part in ("out", "dq", "dk", "dv")),
                flush=True,
            )
        for model_type in FAMILIES:
            figures = compare_model(model_type, key, device)
            rows.append({"kernel": key, "model": model_type, **figures})
            print(
                f"{key:18s} {model_type:16s} loss {figures['loss']:.5f}, fp32 {figures['loss_fp32']:.5f}; "
                f"cosine of all gradients {figures['cosine']:.5f}",
                flush=True,
            )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "attention.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
