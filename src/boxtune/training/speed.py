"""Ways to the same numbers in less time, taken when a run starts and given back when it is over.

Each can be switched alone (`model.speedups`), and each has a test that it changes no result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from boxtune import processes
from boxtune.collators.encode import SampleEncoder
from boxtune.collators.lengths import sample_lengths, token_shares
from boxtune.collators.packing import least_budget
from boxtune.config.engines import engine_of
from boxtune.config.schema import Config
from boxtune.data.dataset import DetectionDataset
from boxtune.models.adapter_arithmetic import compute_as_autocast
from boxtune.models.attention import AttentionChoice, choose_attention, has_sliding_window, use_attention
from boxtune.models.bare import bare_model
from boxtune.models.compile import compile_blocks, release_blocks
from boxtune.models.detection_head.attached import attached_head
from boxtune.models.detection_head.tap import layer_behind
from boxtune.models.frozen_vision import is_frozen
from boxtune.models.joined_adapters import join_adapters, separate_adapters
from boxtune.models.load import LoadedModel
from boxtune.models.padding import pad_vision_mlps, unpad_vision_mlps
from boxtune.models.patch_product import convolve_patches, multiply_patches
from boxtune.training import auto
from boxtune.training.memory import fit_memory, share_of, step_cost, will_be_held


@dataclass(frozen=True)
class Speed:
    """What a run does to be fast.

    Attributes:
        attention: what attends where.
        label_logits: the vocabulary is projected to only where a label stands.
        patch_product: patches are projected by a matrix product.
        frozen_vision: a tower that is not trained runs without gradients, outside of the model's forward.
        compiled: which blocks are compiled at their first call, in words; empty where none are.
        padded_vision: what was done to the vision MLPs, in words; empty where nothing was.
        adapters: how many compute in the step's dtype.
        joined_adapters: how many are one product with their base.
    """

    attention: AttentionChoice
    label_logits: bool = True
    patch_product: bool = False
    frozen_vision: bool = False
    compiled: str = ""
    padded_vision: str = ""
    adapters: int = 0
    joined_adapters: int = 0

    def __str__(self) -> str:
        taken = [
            "logits at labels only" if self.label_logits else "",
            "patches as one product" if self.patch_product else "",
            "frozen vision tower without gradients" if self.frozen_vision else "",
            self.padded_vision,
            "wide adapters as one product" if self.joined_adapters else "",
            self.compiled,
        ]
        return f"Attention: {self.attention}\nSpeed: {', '.join(filter(None, taken)) or 'nothing special'}"

    def record(self) -> dict[str, Any]:
        """JSON-ready, for `run.json`."""
        facts = {"language": self.attention.language, "vision": self.attention.vision, "why": self.attention.why}
        names = (
            "label_logits",
            "patch_product",
            "frozen_vision",
            "compiled",
            "padded_vision",
            "adapters",
            "joined_adapters",
        )
        return {"attention": facts, **{name: getattr(self, name) for name in names}}


def speed_up(model: Any, config: Config, device: torch.device) -> Speed:
    """Make a model that is ready for training fast; whatever is changed in it, `slow_down` puts back.

    Args:
        model: of transformers, or a PeftModel around it, its areas frozen or open as they will be trained.
        config: fitted.
        device: that the model is on.

    Raises:
        ModelError: an attention that is asked for by name does not run here.
    """
    bare = bare_model(model)
    wanted = config.model.speedups
    assert wanted != "auto", "fitted before"
    bf16 = auto.use_bf16(config, device)
    choice = choose_attention(
        config.model.attention,
        device,
        bf16=bf16,
        packed=config.collator.batching == "packed",
        looks_back=has_sliding_window(bare.config),
    )
    use_attention(bare, choice)
    return Speed(
        attention=choice,
        label_logits="label_logits" in wanted,
        patch_product="patch_product" in wanted and multiply_patches(bare),
        frozen_vision="frozen_vision" in wanted and is_frozen(bare),
        compiled=_compile(model, config) if "compiled_blocks" in wanted else "",
        padded_vision=pad_vision_mlps(bare) if "padded_vision" in wanted else "",
        adapters=compute_as_autocast(model) if bf16 and "adapter_arithmetic" in wanted else 0,
        joined_adapters=join_adapters(model) if "joined_adapters" in wanted else 0,
    )


def _compile(model: Any, config: Config) -> str:
    """Compile what pays, and say what that is.

    Compiled together with gradient checkpointing, a block of 4-bit weights keeps what checkpointing should free: 31 GiB
    instead of 11 on a model of seven billion weights (torch 2.11, bitsandbytes 0.50).
    """
    if config.model.quantize == "nf4" and config.trainer.gradient_checkpointing:
        compile_blocks(model, language=False)
        return "vision blocks compiled (those of 4 bits would not save memory then)"
    head = attached_head(model)
    watched = None if head is None else layer_behind(model, head.config.language_layers)
    by_parts = engine_of(config) == "fsdp"
    compile_blocks(model, apart=watched, by_parts=by_parts)
    return "blocks compiled" + (", part by part" if by_parts else "")


def fit_rows(
    config: Config, loaded: LoadedModel, encoder: SampleEncoder, samples: DetectionDataset, device: torch.device
) -> tuple[Config, int | None]:
    """Token budget and gradient checkpointing by an estimate of memory; and images a row, where a budget decides them.

    Args:
        config: its areas and speedups fitted.
        loaded: not yet made ready for training.
        encoder: knows lengths.
        samples: to train on.
        device: that the model is on.
    """
    if device.type != "cuda" and not isinstance(config.collator.token_budget, int):
        return fit_memory(config, None, (), device), None
    lengths = sample_lengths(encoder, samples)
    shares = token_shares(encoder, samples, config.collator.labels)
    held = will_be_held(loaded.model, loaded.family, config, loaded.head)
    cost = step_cost(loaded.model, config, share_of(config, held), **shares)
    fitted = fit_memory(config, cost, lengths, device)
    budget = fitted.collator.token_budget
    if fitted.collator.batching != "packed" or budget is None:
        return fitted, None
    if config.collator.token_budget == "auto":
        budget = least_budget(lengths, int(budget), processes.count() * config.trainer.gradient_accumulation_steps)
    config = fitted.changed("collator", token_budget=budget)
    return config, max(1, int(budget) * len(lengths) // sum(lengths))


def slow_down(model: Any) -> None:
    """A model as it was before: what generates or saves next need not know how it was trained."""
    bare = bare_model(model)
    release_blocks(bare)
    unpad_vision_mlps(bare)
    convolve_patches(bare)
    separate_adapters(model)
    compute_as_autocast(model, wanted=False)
