"""Which implementation attends in which part of a model, chosen once when a run starts.

Fused kernels need no masks and no padding, but a GPU. On a CPU the vision tower attends by whole matrix products where
that is faster, and packed rows sample after sample, which saves the squares between samples that a mask throws away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from boxtune.errors import ModelError
from boxtune.models.attention_kernels import PACKAGES, SEGMENTS, VARLEN, check_package, fastest_kernel
from boxtune.models.attention_matmul import register_matmul
from boxtune.models.attention_varlen import register_varlen

Attention = Literal["auto", "eager", "sdpa", "varlen", "flash_attention_2", "flash_attention_3", "flash_attention_4"]
_AS_LOADED = ("eager", "sdpa")


@dataclass(frozen=True)
class AttentionChoice:
    """What attends where.

    Attributes:
        language, vision: `eager`, `sdpa`, `matmul`, or a key of `boxtune.models.attention_kernels`.
        why: for people, in one line.
    """

    language: str
    vision: str
    why: str

    def __str__(self) -> str:
        return f"language model {self.language}, vision tower {self.vision} ({self.why})"


def choose_attention(
    wanted: Attention, device: torch.device, *, bf16: bool, packed: bool, looks_back: bool = False
) -> AttentionChoice:
    """The implementation for each part.

    Args:
        wanted: `auto`, or a name, which is taken for both parts.
        device: that the model is on.
        bf16: whether a step computes in bf16.
        packed: whether rows hold several samples.
        looks_back: whether some layer of the language model sees a window of the past only (`sliding_attention`).

    Raises:
        ModelError: what is wanted by name does not run here.
    """
    if wanted in _AS_LOADED:
        return AttentionChoice(wanted, wanted, "asked for")
    fused = device.type == "cuda" and bf16
    if wanted == "auto":
        if device.type == "cpu":
            return _on_cpu(packed and not looks_back, bf16)
        if not fused:
            return _plain("fp32 has no fused kernel")
        key, why = fastest_kernel()
        if key is None:
            return _plain(why)
        return AttentionChoice("sdpa" if looks_back else key, key, why)
    if looks_back:
        raise ModelError(f"model.attention={wanted} knows no sliding window, and this model has one: use auto.")
    if wanted == VARLEN and not fused:
        return AttentionChoice(SEGMENTS, SEGMENTS, "asked for; sample after sample, there is no fused kernel here")
    _check_runs(wanted, fused)
    return AttentionChoice(wanted, wanted, "asked for")


def use_attention(model: Any, choice: AttentionChoice) -> None:
    """Let both parts of a model of transformers attend as chosen; no saved configuration tells of it."""
    names = {"text_config": _registered(choice.language), "vision_config": _registered(choice.vision)}
    if names != attention_names(model):
        model.set_attn_implementation(names)


def choose_for_questions(device: torch.device, *, bf16: bool, looks_back: bool) -> AttentionChoice:
    """For rows that hold several questions, whatever the device: exact without masks, but for sliding windows.

    Args:
        device, bf16, looks_back: as of `choose_attention`.
    """
    choice = choose_attention("auto", device, bf16=bf16, packed=True, looks_back=looks_back)
    if looks_back or choice.language not in _AS_LOADED:
        return choice
    return replace(choice, language=SEGMENTS)


def attention_names(model: Any) -> dict[str, str]:
    """What attends where in a model of transformers, as its `set_attn_implementation` takes it."""
    return {part: getattr(model.config, part)._attn_implementation for part in ("text_config", "vision_config")}


def has_sliding_window(config: Any) -> bool:
    """Whether some layer of the language model sees a window of the past only."""
    return "sliding_attention" in (getattr(config.get_text_config(), "layer_types", None) or ())


def _on_cpu(packed: bool, bf16: bool) -> AttentionChoice:
    language, vision = SEGMENTS if packed else "sdpa", "matmul" if bf16 else "sdpa"
    return AttentionChoice(language, vision, "the fastest on a CPU")


def _plain(why: str) -> AttentionChoice:
    return AttentionChoice("sdpa", "sdpa", why)


def _check_runs(wanted: str, fused: bool) -> None:
    if not fused:
        raise ModelError(f"model.attention={wanted} computes in bf16 on a GPU only: use model.attention=auto.")
    for package in PACKAGES:
        if package.key == wanted and not (check := check_package(package, "cuda")).usable:
            raise ModelError(f"model.attention={wanted} cannot be used: {check.reason}.")


def _registered(choice: str) -> str:
    if choice in _AS_LOADED:
        return choice
    return register_matmul() if choice == "matmul" else register_varlen(choice)
