"""Where patches of pictures lie, as a vision tower needs it: worked out on the CPU, so that nothing waits for a GPU.

A tower asks the grids of its pictures for numbers while it runs (`get_vision_position_ids` and its siblings), and each
answer waits until the GPU has done all that it was given before. Its forward takes the answers as arguments instead
(`transformers.vision_utils`, transformers 5.18–5.23). Pictures of one grid share theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import vision_utils

from boxtune.models.sending import sent

Grid = tuple[int, int, int]
"""Frames, rows and columns of patches of a picture."""

_KNOWN = 1024  # grids; one of 4,000 patches takes 100 kB


class _Windows(NamedTuple):
    """Order of the merged tokens `[tokens]` in Qwen2.5-VL's windows, and patches of each window."""

    order: torch.Tensor
    sizes: torch.Tensor


def grids_of(image_grid_thw: torch.Tensor) -> list[Grid]:
    """Of a processor's `[images, 3]`; on a GPU this waits."""
    return [(int(t), int(h), int(w)) for t, h, w in image_grid_thw.tolist()]


def vision_geometry(tower: Any, grids: Sequence[Grid], device: torch.device) -> dict[str, Any]:
    """What `tower.forward` would compute of its `grid_thw`, to be handed to it beside that.

    Args:
        tower: `model.visual` of a Qwen-VL of transformers.
        grids: of the pictures.
        device: of the tower.
    """
    merge = tower.config.spatial_merge_size
    frames = torch.tensor([rows * columns for frames, rows, columns in grids for _ in range(frames)])
    found: dict[str, Any] = {
        "position_ids": torch.cat([_positions(grid, merge) for grid in grids]),
        "cu_seqlens": _borders(frames),
        "max_seqlen": int(frames.max()),
    }
    if hasattr(tower, "fullatt_block_indexes"):  # Qwen2.5-VL
        windows = [_windows(grid, merge, tower.window_size, tower.patch_size) for grid in grids]
        firsts = [0, *torch.tensor([len(own.order) for own in windows]).cumsum(0).tolist()]
        sizes = torch.cat([own.sizes for own in windows])
        found["window_index"] = torch.cat([own.order + first for own, first in zip(windows, firsts, strict=False)])
        found |= {"cu_window_seqlens": _borders(sizes), "max_window_seqlen": int(sizes.max())}
    if hasattr(tower, "num_grid_per_side"):  # Qwen3-VL
        way = tower.num_grid_per_side, tower.interpolation_mode, tower.interpolation_align_corners
        taps = [_interpolation(grid, merge, *way) for grid in grids]
        found["interp_indices"], found["interp_weights"] = (torch.cat(part) for part in zip(*taps, strict=True))
    return {name: sent(v, device) if isinstance(v, torch.Tensor) else v for name, v in found.items()}


def _borders(sizes: torch.Tensor) -> torch.Tensor:
    """`[n]` → `[n + 1]` where each part begins, and where the last ends."""
    return F.pad(sizes.cumsum(0), (1, 0)).int()


@lru_cache(_KNOWN)
def _positions(grid: Grid, merge: int) -> torch.Tensor:
    return vision_utils.get_vision_position_ids(torch.tensor([grid]), merge)


@lru_cache(_KNOWN)
def _windows(grid: Grid, merge: int, window_size: int, patch_size: int) -> _Windows:
    order, borders = vision_utils.get_vision_window_index(torch.tensor([grid]), merge, window_size, patch_size)
    return _Windows(order, borders.diff())


@lru_cache(_KNOWN)
def _interpolation(grid: Grid, merge: int, side: int, mode: str, corners: bool) -> tuple[torch.Tensor, torch.Tensor]:
    indices, weights = vision_utils.get_vision_interpolation_indices_and_weights(
        torch.tensor([grid]), side, mode=mode, align_corners=corners, spatial_merge_size=merge
    )
    return indices, weights
