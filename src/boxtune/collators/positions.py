"""Positions of one conversation's tokens, for packed batches."""

from __future__ import annotations

import itertools

import torch


def text_and_mrope_positions(vision_mask: torch.Tensor, image_grid_thw: torch.Tensor, merge_size: int) -> torch.Tensor:
    """`[4, L]`: a plain count, then time, row and column of multimodal rotary positions.

    Text counts on by one in all three rows; an image stands at one time, its tokens at their row and column, and what
    follows goes on after the longer side. (Qwen2-VL, arXiv 2409.12191, §2.1; equal to `get_rope_index` of the models
    in transformers for images. Videos are not supported.)

    Args:
        vision_mask: `[L]` True at image tokens.
        image_grid_thw: `[images, 3]` patches of each image.
        merge_size: patches merged to a token, a side.
    """
    grids = iter((image_grid_thw[:, 1:] // merge_size).tolist())
    parts: list[torch.Tensor] = []
    start = 0
    for is_image, group in itertools.groupby(vision_mask.tolist()):
        length = len(list(group))
        if not is_image:
            parts.append(torch.arange(start, start + length).expand(3, -1))
            start += length
            continue
        while length > 0:  # two images may stand side by side
            rows, columns = next(grids)
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            parts.append(torch.stack([torch.zeros_like(row), row, column]).reshape(3, -1) + start)
            start += max(rows, columns)
            length -= rows * columns
    return torch.cat([torch.arange(len(vision_mask))[None], torch.cat(parts, dim=1)])
