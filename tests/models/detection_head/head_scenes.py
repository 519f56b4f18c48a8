"""Small heads and random memories that the tests of the head share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from boxtune.models.detection_head.config import DetectionHeadConfig, fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.memory import Memory, token_centres

HIDDEN, VOCABULARY, END = 24, 40, 2
TEXT = SimpleNamespace(hidden_size=HIDDEN, vocab_size=VOCABULARY)


def small_config(**choices: Any) -> DetectionHeadConfig:
    choices = {"num_queries": 6, "width": 16, "num_heads": 2, "caption_layers": 1, "max_label_tokens": 5, **choices}
    return fitted_to(TEXT, END, **choices)


def small_head(seed: int = 0, **choices: Any) -> DetectionHead:
    torch.manual_seed(seed)
    return DetectionHead(small_config(**choices)).eval()


def random_embedding() -> torch.Tensor:
    return torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(9))


def random_memory(grids: list[tuple[int, int]], prompts: list[int], seed: int = 0) -> Memory:
    """Of images with so many rows and columns of tokens, and questions with so many tokens of text; padded."""
    noise = torch.Generator().manual_seed(seed)
    parts = []
    for (rows, columns), length in zip(grids, prompts, strict=True):
        count = rows * columns
        parts.append(
            Memory(
                torch.randn(count, HIDDEN, generator=noise),
                torch.randn(count, HIDDEN, generator=noise),
                torch.randn(length, HIDDEN, generator=noise),
                torch.ones(count, dtype=torch.bool),
                torch.ones(length, dtype=torch.bool),
                token_centres(rows, columns),
            )
        )
    return stacked(parts)


def stacked(parts: list[Memory]) -> Memory:
    """Memories of single images as one, padded by zeros."""
    return Memory(
        *(torch.nn.utils.rnn.pad_sequence(list(field), batch_first=True) for field in zip(*parts, strict=True))
    )


def alone(memory: Memory, number: int) -> Memory:
    """One image of a memory, without padding."""
    image, prompt = memory.image_mask[number], memory.prompt_mask[number]
    masks = (image, image, prompt, image, prompt, image)
    return stacked([Memory(*(field[number][mask] for field, mask in zip(memory, masks, strict=True)))])
