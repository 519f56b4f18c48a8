"""Train the embedded model from nothing: a small Qwen2-VL of transformers' own class, on pictures made by the program.

    python pretraining/pretrain.py --output-dir runs/pretrain --minutes 4 --config pretraining/first_lesson.yaml
    python pretraining/pretrain.py --output-dir runs/pretrain --minutes 5      # again to go on where it stopped
    python pretraining/pretrain.py --output-dir runs/pretrain --minutes 7 --decay
    python pretraining/pretrain.py --output-dir runs/pretrain --export src/boxtune/models/embedded

Needs a GPU and some ten CPU cores a GPU to draw pictures; several GPUs of a machine with `torchrun --standalone
--nproc-per-node 4 pretraining/pretrain.py …`. `--weights` takes up some that were exported before. `--decay` starts
the last phase, in which the learning rate falls to zero, at once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from dense import DenseHeads
from pool import Pool, shaken
from ranks import Ranks, one_gradient
from stream import start_workers
from torch.nn import functional as F
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.vision_utils import get_vision_position_ids

from boxtune.collators.positions import text_and_mrope_positions
from boxtune.models.contract import Contract
from boxtune.models.families import family
from boxtune.models.tiny import centre_patch_filters, set_stop_tokens, tiny_processor, vision_token_ids

HERE = Path(__file__).parent


def build_model(recipe: dict[str, Any], processor: Any) -> Any:
    """The architecture of the recipe with random weights."""
    tokenizer = processor.tokenizer
    ids = vision_token_ids(tokenizer)
    text = {
        **recipe["model"]["text"],
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", **recipe["model"]["rope"]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
        # of large models' 0.02 next to nothing of the picture is left after a few narrow layers: images could not be
        # told apart with it
        "initializer_range": recipe["model"]["text"]["hidden_size"] ** -0.5,
    }
    vision = {
        **recipe["model"]["vision"],
        "hidden_size": text["hidden_size"],
        "initializer_range": recipe["model"]["vision"]["embed_dim"] ** -0.5,
    }
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    torch.manual_seed(recipe["seed"])
    model = Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    centre_patch_filters(model)
    set_stop_tokens(model, tokenizer)
    return model


def uniform_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attention within images of one size: they become a batch dimension instead of a loop."""
    count = len(kwargs["cu_seq_lens_q"]) - 1

    def apart(x: torch.Tensor) -> torch.Tensor:
        heads, length, dim = x.shape[1:]
        return x.reshape(heads, count, length // count, dim).transpose(0, 1)

    out = F.scaled_dot_product_attention(apart(query), apart(key), apart(value), scale=kwargs["scaling"])
    return out.permute(0, 2, 1, 3).reshape(1, -1, out.shape[1], out.shape[3]), None


def with_uniform_attention(model: Any) -> Any:
    """The model, its vision tower with `uniform_attention`."""
    ALL_ATTENTION_FUNCTIONS.register("uniform_flash", uniform_attention)
    for config in (model.config.vision_config, model.model.visual.config):
        config._attn_implementation_internal = "uniform_flash"
    return model


def patches_of(pixels: torch.Tensor, processor: Any) -> torch.Tensor:
    """`[B, 3, H, W]` in 0–1 → patches `[B·N, 3·2·14·14]`, as the processor's image part orders them."""
    images = processor.image_processor
    mean, std = (torch.tensor(v, device=pixels.device)[:, None, None] for v in (images.image_mean, images.image_std))
    flat, _, _ = images.patchify(
        (pixels - mean) / std, images.patch_size, images.merge_size, images.temporal_patch_size
    )
    return flat.flatten(0, 1)


class Step:
    """Forward pass and loss of one batch of equally large pictures.

    It calls the model's own parts one after the other instead of the whole, which asks the GPU several questions a
    step (how many image tokens, where) whose answers are known here: each made the program wait for all work before.
    """

    def __init__(self, model: Any, heads: DenseHeads | None, processor: Any, device: torch.device) -> None:
        self.model, self.heads, self.processor, self.device = model, heads, processor, device
        self.image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.known: dict[str, tuple[int, torch.Tensor, torch.Tensor]] = {}

    def __call__(self, shape: str, batch: dict[str, Any]) -> torch.Tensor:
        """Mean cross-entropy over the tokens of the answers, and the losses of both helping heads: `[3]`."""
        assert self.heads is not None
        length = min(math.ceil(batch["length"] / 64) * 64, batch["input_ids"].shape[1])
        ids = batch["input_ids"][:, :length].long()
        place = torch.arange(ids.shape[1], device=self.device)
        labelled = (place >= batch["answer_starts"][:, None]) & (place < batch["lengths"][:, None])
        keep = batch["answer_start"] - 1
        with torch.autocast(self.device.type, torch.bfloat16):
            first, _, hidden = self.states(shape, shaken(batch), ids)
            logits = self.model.lm_head(hidden[:, keep:-1])
        targets = ids[:, keep + 1 :].masked_fill(~labelled[:, keep + 1 :], -100)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100)
        rows, columns = (int(side) for side in shape.split("x"))
        return torch.stack([loss, *self.heads(batch["boxes"], rows, columns, first)])

    def states(self, shape: str, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Where image tokens begin, vision embeddings `[B, tokens, width]`, last hidden states `[B, L, width]`."""
        rows, columns = (int(side) for side in shape.split("x"))
        first, positions, patch_places = self._of_shape(shape, ids[0], rows, columns)
        seen = self._seen(pixels, patch_places, rows * columns)
        words = self.model.model.language_model.embed_tokens(ids)
        embeds = torch.cat([words[:, :first], seen.to(words.dtype), words[:, first + rows * columns :]], 1)
        hidden = self.model.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions[:, None, : ids.shape[1]].expand(3, *ids.shape),
            use_cache=False,
        ).last_hidden_state
        return first, seen, hidden

    def _seen(self, pixels: torch.Tensor, patch_places: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """Vision embeddings `[B, tokens, width]` of pictures `[B, 3, H, W]`."""
        count, num_patches = len(pixels), len(patch_places)
        embeds = self.model.model.visual(
            patches_of(pixels, self.processor),
            grid_thw=None,
            position_ids=patch_places.repeat(count, 1),
            cu_seqlens=torch.arange(count + 1, device=self.device, dtype=torch.int32) * num_patches,
            max_seqlen=num_patches,
        ).pooler_output
        return embeds.view(count, num_tokens, -1)

    def _of_shape(
        self, shape: str, row: torch.Tensor, rows: int, columns: int
    ) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Where the image tokens begin, M-RoPE positions `[3, 8192]`, and places of the patches `[N, 2]`.

        The words before the image are always the same, so one row serves all.
        """
        if shape not in self.known:
            grid = torch.tensor([[1, 2 * rows, 2 * columns]])
            is_image = F.pad((row == self.image_id).cpu(), (0, 8192 - len(row)))
            positions = text_and_mrope_positions(is_image, grid, 2)[1:].to(self.device)
            places = get_vision_position_ids(grid, 2).to(self.device)
            self.known[shape] = int(is_image.nonzero()[0]), positions, places
        return self.known[shape]


def rate_of(step: int, train: dict[str, Any], decay_from: int | None) -> float:
    """A rise, a plain, and a fall to zero over the last steps."""
    rate = float(train["learning_rate"]) * min(1.0, (step + 1) / train["warmup_steps"])
    start = decay_from if decay_from is not None else train["total_steps"] - train["decay_steps"]
    return rate * min(1.0, max(0.0, 1 - (step - start) / train["decay_steps"]))


def main() -> None:
    """Train for a while, or export."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--config", type=Path, default=HERE / "config.yaml")
    options.add_argument("--output-dir", type=Path, required=True)
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="of each process")
    options.add_argument("--weights", type=Path, help="folder of exported weights to begin a new run with")
    options.add_argument("--decay", action="store_true", help="start the last phase now")
    options.add_argument("--decay-steps", type=int, help="length of the last phase, instead of the config's")
    options.add_argument("--steps", type=int, help="stop after so many steps of this sitting")
    options.add_argument("--export", type=Path, help="write the averaged weights to this folder and stop")
    args = options.parse_args()
    recipe = yaml.safe_load(args.config.read_text())
    recipe["train"]["decay_steps"] = args.decay_steps or recipe["train"]["decay_steps"]
    if args.export:
        export(recipe, args.output_dir, args.export)
    else:
        train(recipe, args)


def processor_for(recipe: dict[str, Any]) -> Any:
    """Processor with the tokenizer that was trained for the model (see tokenizer.py)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(HERE / "tokenizer"))
    processor = tiny_processor("qwen2_vl", max_pixels=recipe["pixels"]["max"], tokenizer=tokenizer)
    processor.image_processor.size["shortest_edge"] = recipe["pixels"]["min"]
    return processor


def train(recipe: dict[str, Any], args: argparse.Namespace) -> None:
    """The loop; writes `state.pt` (to go on) and `log.jsonl`."""
    began = time.monotonic()
    ranks = Ranks()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    state = _state(args)
    processor = processor_for(recipe)
    sitting = int(state["sitting"]) + 1
    chunks = start_workers(processor, recipe["data"], sitting * 10**9 + ranks.rank * 10**8, args.workers)
    first = [next(chunks) for _ in range(recipe["data"]["first"] // recipe["data"]["chunk"])]
    device = ranks.join()
    if device.type == "cpu":  # a trial run
        recipe["data"]["pool"], recipe["train"]["batch_tokens"] = 1000, 6000
    torch.set_float32_matmul_precision("high")
    model = with_uniform_attention(build_model(recipe, processor).to(device).train())
    torch.manual_seed(recipe["seed"] + 1000 * (sitting + 1) + ranks.rank)  # each process shakes its pictures otherwise
    heads = DenseHeads(model).to(device)
    optimizer = _optimizer(model, heads, recipe["train"])
    if "model" in state:
        model.load_state_dict(state["model"])
    if state.get("heads"):
        heads.load_state_dict(state["heads"])
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    average |= {name: value.to(device) for name, value in state.get("average", {}).items()}
    step, decay_from = int(state["step"]), state["decay_from"]
    decay_from = step if args.decay and decay_from is None else decay_from
    pool = Pool(recipe["data"], device, processor.tokenizer.pad_token_id)
    for chunk in first:
        pool.add(chunk)
    pool.follow(chunks)
    if device.type == "cuda":
        compile_blocks(model, heads)
    forward = Step(model, heads, processor, device)
    rng = np.random.default_rng([recipe["seed"], sitting, ranks.rank])
    batches = pool.batches(rng, recipe["train"]["batch_tokens"])
    stop_step = recipe["train"]["total_steps"] if decay_from is None else decay_from + recipe["train"]["decay_steps"]
    stop_step = min(stop_step, step + (args.steps or 10**9))
    log = (args.output_dir / "log.jsonl").open("a") if ranks.rank == 0 else None
    step = _loop(
        model, optimizer, average, forward, batches, pool, recipe, log, ranks,
        step=step, stop_step=stop_step, decay_from=decay_from, deadline=began + args.minutes * 60,
    )  # fmt: skip
    if ranks.rank == 0:
        state = {
            "model": model.state_dict(),
            "average": average,
            "optimizer": optimizer.state_dict(),
            "heads": heads.state_dict(),
            "step": step,
            "sitting": sitting,
            "decay_from": decay_from,
            "num_drawn": int(state["num_drawn"]) + pool.num_drawn * ranks.count,
        }
        torch.save(state, args.output_dir / "state.new")
        (args.output_dir / "state.new").replace(args.output_dir / "state.pt")
        print(f"stopped at step {step}", flush=True)
    ranks.leave()


def _state(args: argparse.Namespace) -> dict[str, Any]:
    """Where an earlier sitting stopped, or exported weights to begin with, or nothing."""
    if (args.output_dir / "state.pt").exists():
        return dict(torch.load(args.output_dir / "state.pt", map_location="cpu", weights_only=True))
    state: dict[str, Any] = {"step": 0, "sitting": -1, "decay_from": None, "num_drawn": 0}
    if args.weights:
        known = Qwen2VLForConditionalGeneration.from_pretrained(args.weights, dtype=torch.float32)
        state["model"] = known.state_dict()
        state["sitting"] = 99  # pictures that the weights have not seen
    return state


def compile_blocks(model: Any, heads: DenseHeads | None = None) -> None:
    """Each block by itself, for any length: one program serves all blocks of a kind."""
    torch._dynamo.config.recompile_limit = 64
    for block in [*model.model.visual.blocks, *model.model.language_model.layers]:
        if heads is not None and block is heads.tapped:  # its hook stays outside
            block.forward = torch.compile(block.forward, dynamic=True)
        else:
            block.compile(dynamic=True)


def _optimizer(model: Any, heads: DenseHeads, train: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW; the patch embedding learns slowly.

    The 1176 numbers of a patch rise and fall together, so equal steps of all its weights add up: at the full rate its
    output grew a thousandfold within 500 steps, and the blocks behind it had no say any more.
    """
    named = list(model.named_parameters())
    patches = [p for name, p in named if "patch_embed" in name]
    decayed = [p for name, p in named if p.ndim > 1 and "patch_embed" not in name]
    plain = [p for name, p in named if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": train["weight_decay"], "scale": 1.0},
        {"params": [*plain, *heads.parameters()], "weight_decay": 0.0, "scale": 1.0},
        {"params": patches, "weight_decay": 0.0, "scale": train["patch_rate"]},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=torch.cuda.is_available())


def _loop(
    model: Any,
    optimizer: torch.optim.Optimizer,
    average: dict[str, torch.Tensor],
    forward: Step,
    batches: Iterator[tuple[str, dict[str, torch.Tensor]]],
    pool: Pool,
    recipe: dict[str, Any],
    log: Any,
    ranks: Ranks,
    *,
    step: int,
    stop_step: int,
    decay_from: int | None,
    deadline: float,
) -> int:
    settings = recipe["train"]
    images, losses, since = 0, [], time.monotonic()
    gradient = one_gradient(p for group in optimizer.param_groups for p in group["params"])
    own = model.state_dict()
    followed = [name for name in average if own[name].is_floating_point()]
    while step < stop_step:
        if step % 20 == 0 and ranks.anyone(time.monotonic() > deadline, gradient.device):
            break
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step, settings, decay_from) * group["scale"]
        shape, batch = next(batches)
        loss = forward(shape, batch)
        (loss[0] + settings["dense_weight"] * (loss[1] + loss[2])).backward()
        ranks.average(gradient)
        gradient *= (1 / (gradient.norm() + 1e-6)).clamp(max=1)
        optimizer.step()
        gradient.zero_()
        with torch.no_grad():  # exponential average of the weights
            keep = min(settings["ema"], (1 + step) / (10 + step))
            torch._foreach_lerp_([average[n] for n in followed], [own[n] for n in followed], 1 - keep)
        step += 1
        images += len(batch["lengths"])
        losses.append(loss.detach())
        if step % 100 == 0 or step == stop_step:
            seconds = time.monotonic() - since
            line = {
                "step": step,
                **dict(
                    zip(
                        ("loss", "near", "far"),
                        torch.stack(losses).mean(0).cpu().numpy().round(4).tolist(),
                        strict=True,
                    )
                ),
                "steps_per_second": round(len(losses) / seconds, 2),
                "images_per_second": round(images * ranks.count / seconds),
                "drawn": pool.num_drawn * ranks.count,
                "rate": optimizer.param_groups[0]["lr"],
            }
            if log is not None:
                print(json.dumps(line), flush=True)
                print(json.dumps(line), file=log, flush=True)
            images, losses, since = 0, [], time.monotonic()
    return step


def export(recipe: dict[str, Any], run: Path, folder: Path) -> None:
    """The averaged weights in bf16, the processor and the contract, as a folder that transformers opens.

    Of a run that has not begun these are random weights: what a comparison with the trained ones starts from.
    """
    processor = processor_for(recipe)
    model = build_model(recipe, processor)
    step = 0
    if (run / "state.pt").exists():
        state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(state["average"])
        step = state["step"]
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="12MB")
    processor.save_pretrained(folder)
    codec = family("qwen2_vl").codec
    limits = recipe["pixels"]["min"], recipe["pixels"]["max"]
    contract = Contract("qwen2_vl", codec.describe(), *limits, labels=("nutrition-table",), max_new_tokens=512)
    contract.save(folder)
    print(f"step {step}: {sum(p.numel() for p in model.parameters()):,} parameters into {folder}")


if __name__ == "__main__":
    main()
