"""Train a detection head for the embedded model, which stays as it is, on pictures made by the program.

    python pretraining/pretrain_head.py --output-dir runs/pretrain-head --minutes 9 --shards runs/shards
    python pretraining/pretrain_head.py --output-dir runs/pretrain-head --minutes 6 --decay --export runs/head

Needs a GPU and some fifteen CPU cores to draw pictures; `--tiny` is a trial on a CPU. A sitting goes on where the last
one stopped: from `state.pt` in its folder, or on another machine from the shards (`--carried`), then with a fresh
optimizer. It ends within its minutes, counted from the start of the program, with everything written. `--minutes 0`
only writes. `--decay` lets the rate fall to zero in the last part of the sitting.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()  # the imports below are slow, and count among the minutes

import numpy as np
import torch
import yaml
from carry import read_shards, write_shards
from head_loss import TERMS, HeadLoss, Truth, truth_of
from pool import Pool, shaken
from pretrain import Step, compile_blocks, with_uniform_attention
from ranks import one_gradient
from stream import start_workers
from torch import nn

from boxtune.losses import detection
from boxtune.losses.detection import DetectionLossConfig
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.memory import Memory, token_centres
from boxtune.models.detection_head.saving import save_head
from boxtune.models.load import load_model

HERE = Path(__file__).parent
_FIRST_SITTING = 300  # pictures that the model was not trained on
_TINY = {"shapes": {"8x8": 1, "7x9": 1}, "pool": 256, "first": 64, "chunk": 16, "max_tokens": 256}


class Questions(Step):
    """What the frozen model makes of a batch of pictures and questions, as the head gets it."""

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        super().__init__(model, None, processor, device)
        self.centres: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def memory(self, shape: str, batch: Mapping[str, Any], pixels: torch.Tensor) -> Memory:
        """As `gather_memory` fetches it, from rows that end with the question; pixels `[B, 3, H, W]` in 0–1."""
        rows, columns = (int(side) for side in shape.split("x"))
        num_tokens = rows * columns
        if shape not in self.centres:
            self.centres[shape] = token_centres(rows, columns).to(self.device)
        # vision, image and text together a multiple of 8, which masked attention is fastest with
        length = batch["length"] + -(batch["length"] + num_tokens) % 8
        ids = batch["input_ids"][:, :length].long()
        place = torch.arange(ids.shape[1], device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            first, seen, hidden = self.states(shape, pixels, ids)
        behind = first + num_tokens
        prompt_mask = torch.cat([place[:first], place[behind:]]) < batch["answer_starts"][:, None]
        prompt = torch.cat([hidden[:, :first], hidden[:, behind:]], 1)
        return Memory(
            vision=seen,
            image=hidden[:, first:behind],
            prompt=prompt.masked_fill(~prompt_mask[..., None], 0),
            image_mask=torch.ones(len(ids), num_tokens, dtype=torch.bool, device=self.device),
            prompt_mask=prompt_mask,
            centres_xy=self.centres[shape].expand(len(ids), -1, -1),
        )


class Schedule:
    """A rise over steps, a plain, and, in a sitting that is asked for it, a fall to zero as time runs out."""

    def __init__(self, train: Mapping[str, Any], *, end: float, decay_share: float) -> None:
        now = time.monotonic()
        self.highest, self.warmup_steps, self.end = train["learning_rate"], train["warmup_steps"], end
        self.fall_s = max(1e-6, (end - now) * decay_share)
        self.falls = decay_share > 0

    def rate(self, step: int) -> float:
        """Of a step, counted since the optimizer was new."""
        rate = self.highest * min(1.0, (step + 1) / self.warmup_steps)
        left = (self.end - time.monotonic()) / self.fall_s
        return rate * min(1.0, max(0.0, left)) if self.falls else rate


def main() -> None:
    """Train for a while and write what was asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--config", type=Path, default=HERE / "head.yaml")
    options.add_argument("--model", default="embedded", help="that the head is for")
    options.add_argument("--output-dir", type=Path, required=True)
    options.add_argument("--minutes", type=float, default=9.0)
    options.add_argument("--reserve", type=float, default=15.0, help="seconds of them for writing")
    options.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    options.add_argument("--decay", action="store_true", help="let the rate fall to zero in this sitting")
    options.add_argument("--decay-share", type=float, default=0.4, help="of the sitting's steps, in which it falls")
    options.add_argument("--export", type=Path, help="folder for the head, of averaged weights")
    options.add_argument("--shards", type=Path, help="folder for the state, in files that can be carried")
    options.add_argument("--carried", type=Path, help="such a folder to go on from, where there is no state.pt")
    options.add_argument("--no-compile", action="store_true")
    options.add_argument("--tiny", action="store_true", help="few small pictures, for a trial on a CPU")
    args = options.parse_args()
    recipe = yaml.safe_load(args.config.read_text())
    if args.tiny:
        recipe["data"] |= _TINY
        recipe["train"] |= {"batch_tokens": 256, "warmup_steps": 50, "learning_rate": 5e-4, "log_every": 25}
    run(recipe, args, BEGAN)


def run(recipe: dict[str, Any], args: argparse.Namespace, began: float) -> None:
    """One sitting."""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    loaded = load_model(args.model)
    processor = loaded.processor
    state = _state(args)
    sitting = int(state["sitting"]) + 1
    end = began + args.minutes * 60 - args.reserve
    chunks, first = None, []
    if args.minutes:
        chunks = start_workers(processor, recipe["data"], (_FIRST_SITTING + sitting) * 10**9, args.workers)
        first = [next(chunks) for _ in range(math.ceil(recipe["data"]["first"] / recipe["data"]["chunk"]))]
    device = torch.device("cpu") if args.tiny or not torch.cuda.is_available() else torch.device("cuda", 0)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(recipe["seed"] + 1000 * sitting)
    text_config = loaded.model.config.get_text_config()
    head = DetectionHead(fitted_to(text_config, processor.tokenizer.eos_token_id, **recipe["head"])).to(device).train()
    if "head" in state:
        head.load_state_dict(state["head"])
    optimizer = _optimizer(head, recipe["train"], fused=device.type == "cuda")
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    average = {name: value.detach().clone() for name, value in head.state_dict().items()}
    average |= {name: value.to(device) for name, value in state.get("average", {}).items()}
    if chunks is not None:
        pool = Pool(recipe["data"], device, processor.tokenizer.pad_token_id)
        for chunk in first:
            pool.add(chunk)
        pool.follow(chunks)
        questions = Questions(frozen(loaded.model, device), processor, device)
        if device.type == "cuda" and not args.no_compile:
            _compile(loaded.model, head)
        rng = np.random.default_rng([recipe["seed"], sitting])
        batches = pool.mixed_batches(rng, recipe["train"]["batch_tokens"])
        schedule = Schedule(recipe["train"], end=end, decay_share=args.decay_share if args.decay else 0.0)
        fresh = 0 if "optimizer" in state else int(state["step"])
        with (args.output_dir / "log.jsonl").open("a") as log:
            print(f"first step after {time.monotonic() - began:.0f} s", flush=True)
            state["step"] = _loop(
                head, optimizer, average, questions, batches, pool, recipe["train"], schedule, log,
                step=int(state["step"]), fresh=fresh, drawn_before=int(state["num_drawn"]),
            )  # fmt: skip
        state["sitting"], state["num_drawn"] = sitting, int(state["num_drawn"]) + pool.num_drawn
    rest = {name: state[name] for name in ("step", "sitting", "num_drawn")}
    _write(args, head, average, optimizer, rest)
    print(f"stopped at step {state['step']} after {time.monotonic() - began:.0f} s", flush=True)
    for worker in multiprocessing.active_children():
        worker.terminate()
    os._exit(0)  # the loader would wait for each worker to finish its picture: up to seconds for each


def frozen(model: Any, device: torch.device) -> Any:
    """The model on its device, to be read only."""
    model = with_uniform_attention(model.to(device).eval().requires_grad_(False))
    if device.type == "cuda":  # autocast would round these anew in every step
        for module in model.model.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
    return model


def _compile(model: Any, head: DetectionHead) -> None:
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled is run as it is: a sitting is not lost to it
    compile_blocks(model)
    # not the decoder's: masked attention over ever other lengths is what compiled programs go wrong with
    for part in [head.vision_intake, head.language_intake, *head.captioner.layers]:
        part.compile(dynamic=True)


def _optimizer(head: DetectionHead, train: Mapping[str, Any], *, fused: bool) -> torch.optim.Optimizer:
    decayed = [p for p in head.parameters() if p.ndim > 1]
    plain = [p for p in head.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": train["weight_decay"]},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=fused)


def _loop(
    head: DetectionHead,
    optimizer: torch.optim.Optimizer,
    average: dict[str, torch.Tensor],
    questions: Questions,
    batches: Iterator[tuple[str, dict[str, Any]]],
    pool: Pool,
    train: Mapping[str, Any],
    schedule: Schedule,
    log: Any,
    *,
    step: int,
    fresh: int,
    drawn_before: int,
) -> int:
    losses = DetectionLossConfig()
    weights = torch.tensor([detection.weights(losses)[name] for name in TERMS], device=questions.device)
    embedding = questions.model.get_input_embeddings().weight
    gradient = one_gradient(p for group in optimizer.param_groups for p in group["params"])
    own = head.state_dict()
    autocast = torch.autocast(questions.device.type, torch.bfloat16, enabled=questions.device.type == "cuda")
    images, seen, since = 0, [], time.monotonic()

    def ahead() -> tuple[Memory, Truth]:
        shape, batch = next(batches)
        return questions.memory(shape, batch, shaken(batch)), truth_of(batch)

    memory, truth = ahead()
    while time.monotonic() < schedule.end:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step - fresh)
        with autocast:
            loss = HeadLoss(head(memory), truth, losses)
        loss.ask()
        images += truth.objects.num_images
        memory, truth = ahead()  # the device reads the next pictures while costs travel and queries are matched here
        with autocast:
            terms = loss.terms(head, embedding)
        (terms * weights).sum().backward()
        norm = gradient.norm()
        scale = (train["clip"] / (norm + 1e-6)).clamp(max=1)
        gradient.nan_to_num_(0, 0, 0).mul_(torch.where(norm.isfinite(), scale, 0))  # a step without numbers is none
        optimizer.step()
        gradient.zero_()
        with torch.no_grad():  # exponential average of the weights
            keep = min(train["ema"], (1 + step) / (10 + step))
            torch._foreach_lerp_([average[name] for name in own], list(own.values()), 1 - keep)
        step += 1
        seen.append(torch.cat([terms.detach(), norm[None]]))
        if step % train["log_every"] == 0:
            means = torch.stack(seen).mean(0).cpu().double().numpy().round(4).tolist()
            seconds = time.monotonic() - since
            line = {
                "step": step,
                **dict(zip((*TERMS, "gradient_norm"), means, strict=True)),
                "steps_per_second": round(len(seen) / seconds, 2),
                "images_per_second": round(images / seconds),
                "drawn": drawn_before + pool.num_drawn,
                "rate": optimizer.param_groups[0]["lr"],
            }
            print(json.dumps(line), flush=True)
            print(json.dumps(line), file=log, flush=True)
            images, seen, since = 0, [], time.monotonic()
    return step


def _state(args: argparse.Namespace) -> dict[str, Any]:
    """Where an earlier sitting stopped, here or on another machine, or the beginning."""
    if (args.output_dir / "state.pt").exists():
        return dict(torch.load(args.output_dir / "state.pt", map_location="cpu", weights_only=True))
    if args.carried:
        weights, rest = read_shards(args.carried)
        parts: dict[str, dict[str, torch.Tensor]] = {"head": {}, "average": {}}
        for name, value in weights.items():
            part, _, own_name = name.partition("/")
            parts[part][own_name] = value
        return {**rest, **parts}
    return {"step": 0, "sitting": -1, "num_drawn": 0}


def _write(
    args: argparse.Namespace,
    head: DetectionHead,
    average: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    rest: Mapping[str, Any],
) -> None:
    """The head first: it is what a sitting is for."""
    small = {name: value.to("cpu", torch.bfloat16) for name, value in average.items()}
    if args.export:
        save_head(head, args.export, small)
    trained = {name: value.cpu() for name, value in head.state_dict().items()}
    if args.shards:
        carried = {f"head/{name}": value for name, value in trained.items()}
        write_shards({**carried, **{f"average/{name}": value for name, value in small.items()}}, rest, args.shards)
    state = {"head": trained, "average": dict(average), "optimizer": optimizer.state_dict(), **rest}
    torch.save(state, args.output_dir / "state.new")
    (args.output_dir / "state.new").replace(args.output_dir / "state.pt")


if __name__ == "__main__":
    main()
