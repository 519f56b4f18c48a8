"""Where image tokens lie, as vectors. A place is `(x, y)` as shares of the image's sides, so size does not matter."""

from __future__ import annotations

import math

import torch
from torch import nn

from boxtune.models.detection_head.config import Positions

_PLACES = 32  # learned places a side; an image of 900 × 900 px has about as many tokens
_SLOWEST = 20.0  # ratio of the fastest wave to the slowest: DAB-DETR's temperature for images (arXiv 2201.12329, §4.4)
_FASTEST = 2 * math.pi * 16  # sixteen waves a side


def sine_positions(centres_xy: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of both coordinates (as DETR, arXiv 2005.12872, §A.4): `[..., 2]` → `[..., width]`.

    Args:
        centres_xy: shares of the image's sides, 0–1.
        width: a multiple of 4.
    """
    steps = torch.linspace(0, 1, width // 4, device=centres_xy.device, dtype=centres_xy.dtype)
    angles = centres_xy[..., None] * _FASTEST / _SLOWEST**steps  # [..., 2, width / 4]
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


class LearnedPositions(nn.Module):
    """A learned vector a column and a row (DETR's learned embedding), between two of them the mean by distance.

    They begin as sines: vectors that begin as noise must first learn which places are neighbours.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        places = (torch.arange(_PLACES) + 0.5) / _PLACES
        sines = sine_positions(torch.stack([places, places], -1), width)
        self.tables = nn.Parameter(sines.unflatten(-1, (2, -1)).transpose(0, 1).contiguous())  # x, y

    def forward(self, centres_xy: torch.Tensor) -> torch.Tensor:
        """`[..., 2]` shares of the sides → `[..., width]`."""
        place = (centres_xy * _PLACES - 0.5).clamp(0, _PLACES - 1)
        low = place.nan_to_num().floor().long().clamp(max=_PLACES - 2)  # of what is no number, the vector is none
        share = (place - low)[..., None].to(self.tables.dtype)
        axis = torch.arange(2, device=low.device)
        return torch.lerp(self.tables[axis, low], self.tables[axis, low + 1], share).flatten(-2)


class GridPositions(nn.Module):
    """The positions that a configuration asks for; zero where it asks for none."""

    def __init__(self, kind: Positions, width: int) -> None:
        super().__init__()
        self.kind, self.width = kind, width
        self.learned = LearnedPositions(width) if kind == "learned" else None

    def forward(self, centres_xy: torch.Tensor) -> torch.Tensor:
        """`[..., 2]` shares of the sides → `[..., width]`."""
        if self.learned is not None:
            return self.learned(centres_xy)
        if self.kind == "sine":
            return sine_positions(centres_xy, self.width)
        return centres_xy.new_zeros(*centres_xy.shape[:-1], self.width)
