"""Blocks compiled one by one: the same code for every layer, whatever the lengths, and the whole model left as it is.

Compiled for dynamic shapes from the start, since no two packed rows have the same lengths. Generation runs the blocks
as they are: its shapes and caches differ at every step, and each would be compiled anew.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from boxtune.models.bare import bare_model

_PROGRAMS = 32
"""All blocks, of vision and language, are one function to the compiler (transformers' `GradientCheckpointingLayer`), of
which it makes eight programs at most if it is not told otherwise; questions and single tokens have their own.
"""


def blocks_of(model: Any, *, language: bool = True) -> list[nn.Module]:
    """The layers of the language model, unless left out, and the blocks of the vision tower.

    Args:
        model: of transformers, or a PeftModel around it.
        language: whether the layers of the language model are wanted.
    """
    bare = bare_model(model)
    return [*(bare.model.language_model.layers if language else ()), *bare.model.visual.blocks]


def compile_blocks(
    model: Any,
    backend: str = "inductor",
    *,
    language: bool = True,
    apart: nn.Module | None = None,
    by_parts: bool = False,
) -> None:
    """Have every block compiled at its first call.

    Args:
        model: of transformers, or a PeftModel around it.
        backend: of `torch.compile`.
        language: the layers of the language model too, not only the blocks of the vision tower.
        apart: a block that stays as it is, since others watch it run.
        by_parts: attention, MLP and norms each by itself. FSDP2 hangs hooks around a block, which are other ones for
            each block: compiled with it, all blocks would be programs of their own.
    """
    limits = torch._dynamo.config  # type: ignore[attr-defined]
    limits.recompile_limit = max(limits.recompile_limit, _PROGRAMS)
    for block in blocks_of(model, language=language):
        if block is apart:
            continue
        for part in block.children() if by_parts else (block,):
            part.compile(dynamic=True, backend=backend)


def release_blocks(model: Any) -> None:
    """Let the blocks run as they are again."""
    for part in _parts_of(model):
        part._compiled_call_impl = None  # what `Module.compile` sets; torch 2.15 has no name for the way back


def are_compiled(model: Any) -> bool:
    """Whether the blocks are compiled, or will be at their first call."""
    return any(part._compiled_call_impl is not None for part in _parts_of(model))


def _parts_of(model: Any) -> list[nn.Module]:
    """What may have been compiled."""
    return [part for block in blocks_of(model) for part in (block, *block.children())]


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, compiled blocks run as they are."""
    return torch.compiler.set_stance("force_eager")


def is_compile_error(error: BaseException) -> bool:
    """Whether an error comes from compiling and not from what was compiled; an error of memory never does."""
    from torch._dynamo.exc import TorchDynamoException

    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    if any(isinstance(link, torch.OutOfMemoryError) for link in chain):
        return False
    return any(isinstance(link, TorchDynamoException) or _is_inductors(link) for link in chain)


def _is_inductors(error: BaseException) -> bool:
    """Errors of the compiler behind dynamo, which the backward pass calls without dynamo around it."""
    return type(error).__module__.startswith(("torch._inductor", "triton"))
