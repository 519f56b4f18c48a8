"""Images a second in detection: boxtune's `detect` beside transformers' `generate`, on the same pictures.

    python benchmarks/detect_throughput.py --output-dir runs/detect               # one GPU; about six minutes
    python benchmarks/detect_throughput.py --model embedded --images 48 --data synthetic:nutrition?n=48 \
        --output-dir runs/detect-cpu                                              # two CPU cores
    python benchmarks/detect_throughput.py --tiny --output-dir runs/try           # seconds, on a CPU

The model is a Qwen2.5-VL of 7 billion random weights (speed does not depend on them), which never ends an answer by
itself: every answer has `--tokens` tokens, in both. The pictures are alike in size, 676 image tokens, so that padding
costs the peer nothing. A row is the time from pictures to boxes with scores, preparation included, after a first round
that is not counted and whose time is told beside. The peer gets its inputs as a batch from its own processor, pads on
the left, generates greedily, and computes no scores. Agreement is the share of characters, up to the first that
differs, that an answer has in common with `generate` in the same dtype; on a GPU that of random weights is nothing, as
all tokens are about as likely and rounding decides.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from throughput_setup import build, named, write_pictures

from boxtune.data.dataset import load_dataset
from boxtune.inference.detector import Detector, own_detector
from boxtune.inference.steps import Steps
from boxtune.inference.writing import stop_ids
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.devices import autocast_for, pick_device
from boxtune.models.load import LoadedModel

HEAD = "detection head"
ROWS = ("generate", "static", "detect", "head")


def by_generate(
    loaded: LoadedModel, detector: Detector, images: Sequence[Image.Image], batch: int, tokens: int, static: bool
) -> list[str]:
    """Each answer as plain transformers gives them, its processor fed as its documentation does."""
    processor, model = loaded.processor, loaded.model
    conversation = detector.style.question(detector.labels)
    text = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    answers: list[str] = []
    stops = stop_ids(model, processor.tokenizer)
    for start in range(0, len(images), batch):
        group = list(images[start : start + batch])
        inputs = processor(
            text=[text] * len(group), images=group, padding=True, padding_side="left", return_tensors="pt"
        ).to(model.device)
        options: dict[str, Any] = {"cache_implementation": "static"} if static else {}
        with torch.inference_mode(), autocast_for(model.device):
            found = model.generate(
                **inputs,
                max_new_tokens=tokens,
                do_sample=False,
                repetition_penalty=1.0,
                pad_token_id=processor.tokenizer.pad_token_id,
                **options,
            )
        for row in found[:, inputs["input_ids"].shape[1] :].tolist():
            end = next((place for place, token in enumerate(row) if token in stops), len(row))  # padding follows
            answers.append(processor.tokenizer.decode(row[:end], skip_special_tokens=False))
    return answers


def by_boxtune(detector: Detector, images: Sequence[Image.Image]) -> list[str]:
    """The same with scores and boxes."""
    return [prediction.answer.text for prediction in detector.predict(images, num_candidates=0) if prediction.answer]


def by_head(detector: Detector, images: Sequence[Image.Image]) -> list[str]:
    """What the head finds: as many boxes as the prediction holds."""
    return [str(len(prediction.candidates)) for prediction in detector.predict(images)]


def random_head(loaded: LoadedModel, language_layers: int | None) -> DetectionHead:
    """A head of the size that it has by default, which reads the language model behind some of its layers, or all."""
    end = loaded.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = fitted_to(loaded.model.config.get_text_config(), end, language_layers=language_layers)
    return DetectionHead(config).to(loaded.model.device).eval()


def depths(asked: str, num_layers: int) -> dict[str, int | None]:
    """`all,half,0` → what to call a head, and the layers that it reads behind."""
    words = {"all": None, "half": num_layers // 2}
    layers = [words[one] if one in words else int(one) for one in asked.split(",")]
    return {HEAD if one is None else f"{HEAD} behind layer {one}": one for one in layers}


def timed(act: Callable[[], list[str]], repeats: int, device: torch.device) -> tuple[float, list[float], list[str]]:
    """Seconds of the first round, of each further one, and the answers."""
    times: list[float] = []
    answers: list[str] = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        answers = act()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times[0], times[1:], answers


def step_seconds(steps: Steps, number: int = 30) -> float:
    """Of one token for every slot."""
    with torch.inference_mode(), autocast_for(steps.device):
        steps.step()
        began = time.perf_counter()
        for _ in range(number):
            steps.step()
        return (time.perf_counter() - began) / number


def common_share(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Of characters, up to the first that differs."""
    shares = []
    for one, two in zip(ours, theirs, strict=True):
        same = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        shares.append(same / max(1, len(two)))
    return statistics.mean(shares)


def measure(args: argparse.Namespace, loaded: LoadedModel, images: Sequence[Image.Image], labels: list[str]) -> None:
    device, rows, texts = loaded.model.device, {}, {}

    def row(name: str, batch: int, act: Callable[[], list[str]], number: int) -> None:
        try:
            first, times, answers = timed(act, args.repeats, device)
        except Exception as error:  # the next row may well work
            print(f"{name}, batches of {batch}: failed: {type(error).__name__}: {str(error)[:200]}", flush=True)
            return
        texts[name, batch] = answers
        rate = number / statistics.median(times)
        peer = rows.get(("generate", batch))
        is_text = peer and not name.startswith(HEAD)
        agreed = common_share(texts[name, batch], texts["generate", batch]) if is_text else None
        rows[name, batch] = {"images_per_second": rate, "seconds": times, "first_seconds": first, "agreement": agreed}
        ratio = rate / peer["images_per_second"] if peer else None
        against = f", {ratio:5.2f} × generate" if peer else ""
        alike = "" if agreed is None else f", {agreed:4.0%} agrees"
        print(
            f"{name:32s} batches of {batch:2d} {rate:7.2f} img/s{against}{alike}, first round {first:.1f} s", flush=True
        )
        record = {f"{name}, {batch}": figures for (name, batch), figures in rows.items()}
        (args.output_dir / "detect.json").write_text(json.dumps(record, indent=2) + "\n")

    plain = Detector(loaded, labels=labels)
    for batch in args.batches:
        some = list(images)[: max(2, args.images_alone)] if batch == 1 else list(images)
        for name, static in (("generate", False), ("generate, static cache", True)):
            if ("static" if static else name) in args.rows:
                row(name, batch, lambda some=some, batch=batch, static=static: by_generate(
                    loaded, plain, some, batch, args.tokens, static), len(some))  # fmt: skip
                torch._dynamo.reset()
    for batch in args.batches:
        some = list(images)[: max(2, args.images_alone)] if batch == 1 else list(images)
        for name, compiled in (("detect", False), ("detect, blocks compiled", True)):
            if "detect" not in args.rows or (compiled and device.type != "cuda"):
                continue
            detector = own_detector(
                loaded, labels=labels, batch_size=batch, max_new_tokens=args.tokens, compile_after=None
            )
            if compiled:
                detector.compile()
            row(name, batch, lambda some=some, detector=detector: by_boxtune(detector, some), len(some))
            for steps in detector._spare:
                print(f"    a step {1000 * step_seconds(steps):.2f} ms over {steps.memory.length} places", flush=True)
            del detector
            gc.collect()
            torch._dynamo.reset()
    if "head" in args.rows:
        num_layers = loaded.model.config.get_text_config().num_hidden_layers
        for name, layers in depths(args.head_layers, num_layers).items():
            with_head = replace(loaded, head=random_head(loaded, layers))
            for batch in args.batches:
                some = list(images)[: max(2, args.images_alone)] if batch == 1 else list(images)
                detector = own_detector(with_head, labels=labels, batch_size=batch, decoder="head")
                if device.type == "cuda":
                    detector.compile()
                row(name, batch, lambda some=some, detector=detector: by_head(detector, some), len(some))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--model", default="7b", help="7b, tiny, or anything that boxtune loads")
    parser.add_argument("--data", help="pictures of a data set instead of random ones")
    parser.add_argument("--rows", default=",".join(ROWS), help="which of these")
    parser.add_argument("--head-layers", default="all,half,0", help="of the language model that heads read behind")
    parser.add_argument("--batches", default="32,1", help="answers at a time, with commas")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--images-alone", type=int, default=8, help="pictures for batches of one")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer, at most")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and small pictures, for a CPU")
    return parser.parse_args()


def main() -> None:
    args = parse()
    cells = (676, 676)
    if args.tiny:
        args.model, args.images, args.images_alone, args.tokens, args.repeats, cells = "tiny", 6, 2, 8, 1, (16, 16)
    args.rows = named(args.rows, ROWS)
    args.batches = [int(number) for number in args.batches.split(",")]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    device = pick_device(args.device)
    with tempfile.TemporaryDirectory() as home:
        data = args.data or str(write_pictures(Path(home) / "pictures", args.images, cells))
        samples = load_dataset(data, "train")
        images = [samples[index].image for index in range(min(args.images, len(samples)))]
        loaded = build(args.model, device)
        if args.model in ("7b", "tiny"):
            loaded.model.generation_config.eos_token_id = None
            loaded.processor.tokenizer.eos_token = None
        labels = list(samples.labels)
        measure(args, loaded, images, labels)


if __name__ == "__main__":
    main()
