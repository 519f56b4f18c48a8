"""How much memory of a GPU a step takes, estimated before it is tried, and the settings that follow.

The terms were fitted to measurements of Qwen2.5-VL-7B on one H200 (bf16, LoRA of rank 64 on the language model, rows of
8192 tokens): 56 GiB with compiled blocks, 67 GiB without, 23 GiB with gradient checkpointing, each met within a tenth.
The trainer says the estimate beside what was measured in the first steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from boxtune import processes
from boxtune.config.engines import engine_of, zero_stage
from boxtune.config.schema import Config
from boxtune.models.families import Family
from boxtune.models.quantize import num_bytes, num_elements

BUDGET = 8192  # tokens of a row: matrices of this height keep an H200 busy, higher ones gain little
_SMALLEST_BUDGET = 2048
_USABLE = 0.92  # of what is free: pieces that cannot be used, and the kernels' own
_HALF, _SINGLE = 2, 4  # bytes of a number
_ADAM = 3 * _SINGLE  # gradient and two moments of a trained number
_PATCHES_PER_TOKEN = 4
_WORKSPACE = 2**30  # cuBLAS, the context of CUDA


@dataclass(frozen=True)
class Layers:
    """Sizes of a stack of blocks that decide what a step keeps of them.

    Attributes:
        num: of blocks.
        width: of the hidden states.
        mlp_width: of the MLP; of a mixture, of all experts that a token visits.
        num_mlp_parts: tensors of that width that are kept, gate and product included.
        kv_width: of keys and values together.
    """

    num: int
    width: int
    mlp_width: int
    num_mlp_parts: int = 3
    kv_width: int = 0

    def bytes_per_token(self, *, compiled: bool) -> int:
        """Kept for the backward pass by one block; uncompiled norms keep fp32 copies on top."""
        kept = _HALF * (8 * self.width + self.num_mlp_parts * self.mlp_width + self.kv_width)
        return kept if compiled else kept + 14 * self.width


@dataclass(frozen=True)
class StepCost:
    """What decides the memory of a step.

    Attributes:
        held_bytes: weights, and gradients and optimizer of what is trained.
        language, vision: sizes of the blocks.
        vision_trained: whether the tower keeps what its backward pass needs.
        vocab_size: of the logits.
        image_share, label_share: of the tokens.
        compiled: whether blocks are compiled.
        head_bytes: that a detection head keeps of each image token.
    """

    held_bytes: int
    language: Layers
    vision: Layers
    vision_trained: bool
    vocab_size: int
    image_share: float
    label_share: float
    compiled: bool
    head_bytes: int = 0

    def peak_bytes(self, tokens: int, *, checkpointing: bool) -> int:
        """Of a step with so many tokens in one forward pass."""
        patches = tokens * self.image_share * _PATCHES_PER_TOKEN
        logits = tokens * self.label_share * self.vocab_size * (_HALF + 2 * _SINGLE)
        language = self._blocks(self.language, tokens, checkpointing)
        one_vision = patches * self.vision.bytes_per_token(compiled=False)  # alive while the tower runs
        vision = self._blocks(self.vision, patches, checkpointing) if self.vision_trained else 0.0
        pixels = patches * 1176 * _HALF
        head = tokens * self.image_share * self.head_bytes
        passing = max(logits, one_vision if not self.vision_trained else 0.0)
        return int(self.held_bytes + _WORKSPACE + language + vision + pixels + head + passing)

    def _blocks(self, layers: Layers, tokens: float, checkpointing: bool) -> float:
        one = layers.bytes_per_token(compiled=self.compiled)
        kept = layers.num * _HALF * layers.width + one if checkpointing else layers.num * one
        return tokens * kept


def step_cost(model: Any, config: Config, held_bytes: int, *, image_share: float, label_share: float) -> StepCost:
    """Of a model.

    Args:
        model: of transformers.
        config: its areas and speedups fitted.
        held_bytes: see `held_in_training` and `will_be_held`.
        image_share, label_share: of the tokens of a sample.
    """
    text, vision = model.config.get_text_config(), model.config.vision_config
    vision_width = getattr(vision, "embed_dim", None) or vision.hidden_size
    vision_mlp = getattr(vision, "intermediate_size", None) or int(vision_width * getattr(vision, "mlp_ratio", 4))
    heads = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    experts = getattr(text, "num_experts_per_tok", None)
    mlp_width = text.intermediate_size if experts is None else experts * text.moe_intermediate_size
    return StepCost(
        held_bytes=held_bytes,
        language=Layers(
            text.num_hidden_layers, text.hidden_size, mlp_width, kv_width=2 * text.num_key_value_heads * heads
        ),
        vision=Layers(vision.depth, vision_width, vision_mlp, kv_width=2 * vision_width),
        vision_trained=(config.adapter.vision, config.adapter.merger) != ("frozen", "frozen"),
        vocab_size=text.vocab_size,
        image_share=image_share,
        label_share=label_share if "label_logits" in config.model.speedups else 1.0,
        compiled="compiled_blocks" in config.model.speedups,
        head_bytes=_head_bytes(config, text.hidden_size) if config.model.detection_head else 0,
    )


def _head_bytes(config: Config, hidden_size: int) -> int:
    """What its adapters and layers keep of an image token under bf16: counted by torch's hooks of saved tensors."""
    width, layers = config.detection_head.width, config.detection_head.decoder_layers
    assert isinstance(width, int)  # fitted before
    assert isinstance(layers, int)
    return 25 * hidden_size + (14 + 16 * layers) * width


def share_of(config: Config, held_bytes: int) -> int:
    """What of weights, gradients and optimizer a process holds, where they are divided."""
    divides_weights = engine_of(config) == "fsdp" or zero_stage(config) == 3
    return held_bytes // processes.count() if divides_weights else held_bytes


def held_in_training(model: Any) -> int:
    """Bytes of weights, gradients and optimizer of a model whose areas are frozen or open."""
    trained = sum(num_elements(parameter) for parameter in model.parameters() if parameter.requires_grad)
    return _weight_bytes(model) + trained * _ADAM


def will_be_held(model: Any, family: Family, config: Config, head: nn.Module | None = None) -> int:
    """The same of a model that is loaded only, from what its configuration will do to it, and of a head beside it."""
    total = _weight_bytes(model)
    if head is not None:
        total += sum(num_elements(p) for p in head.parameters()) * (_ADAM + _SINGLE)
    for area in ("vision", "merger", "language"):
        how = getattr(config.adapter, area)
        if how == "full":  # the weights become fp32
            parameters = [p for name, p in model.named_parameters() if re.match(family.areas[area], name)]
            total += sum(num_elements(p) * (_ADAM + _SINGLE) - num_bytes(p) for p in parameters)
        elif how == "lora":
            total += _low_rank_size(model, family.lora_targets[area], config.adapter.lora.rank) * (_ADAM + _SINGLE)
    return total


def fit_memory(config: Config, cost: StepCost | None, lengths: Sequence[int], device: torch.device) -> Config:
    """Token budget and gradient checkpointing, where they are `auto`.

    `model.memory=fast` never runs blocks twice and makes rows shorter instead; `small` always does; `auto` does where
    rows would else be shorter than `BUDGET` or the longest sample. On a CPU rows hold a number of images.

    Args:
        config: its areas and speedups fitted.
        cost: of a step; only a GPU needs it.
        lengths: tokens of the samples.
        device: that the model is on.
    """
    if device.type != "cuda":
        return _set(config, config.model.memory == "small", None)
    assert cost is not None
    free, _ = torch.cuda.mem_get_info(device)
    usable = _USABLE * (free + torch.cuda.memory_reserved(device))  # the weights are there already
    longest = max(lengths, default=1)
    wanted = max(BUDGET, longest)
    asked, memory = config.trainer.gradient_checkpointing, config.model.memory
    if asked == "auto":
        checkpointing = memory == "small" or (
            memory == "auto" and cost.peak_bytes(wanted, checkpointing=False) > usable
        )
    else:
        checkpointing = bool(asked)
    budget = wanted
    while budget > max(longest, _SMALLEST_BUDGET) and cost.peak_bytes(budget, checkpointing=checkpointing) > usable:
        budget = max(longest, _SMALLEST_BUDGET, budget - 1024)
    return _set(config, checkpointing, budget)


def _set(config: Config, checkpointing: bool | None, budget: int | None) -> Config:
    if config.collator.token_budget == "auto":
        config = config.changed("collator", token_budget=budget if config.collator.batching == "packed" else None)
    if checkpointing is not None and config.trainer.gradient_checkpointing == "auto":
        config = config.changed("trainer", gradient_checkpointing=checkpointing)
    return config


def _weight_bytes(model: Any) -> int:
    return sum(num_bytes(parameter) for parameter in model.parameters())


def _low_rank_size(model: Any, pattern: str, rank: int) -> int:
    linears = [module for name, module in model.named_modules() if re.fullmatch(pattern, name)]
    return sum(rank * (linear.in_features + linear.out_features) for linear in linears if _is_linear(linear))


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")
