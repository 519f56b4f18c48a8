"""The way into the head: features of the large model, bent a little and brought to the head's width."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class ResidualMLPAdapter(nn.Module):
    """`x + up(GELU(down(LayerNorm(x))))` on `[..., H]`, narrow in the middle; does nothing at the start.

    The bottleneck adapter of Houlsby et al. 2019 (arXiv 1902.00751, §2.1).
    """

    def __init__(self, hidden_size: int, bottleneck_ratio: int) -> None:
        super().__init__()
        inner = max(1, hidden_size // bottleneck_ratio)
        self.norm = nn.LayerNorm(hidden_size)
        self.down = nn.Linear(hidden_size, inner)
        self.up = nn.Linear(inner, hidden_size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[..., H]` → `[..., H]`."""
        return states + self.up(F.gelu(self.down(self.norm(states))))


class Intake(nn.Module):
    """`[..., H]` of any dtype → `[..., W]` normalised: an adapter, then the head's width."""

    def __init__(self, hidden_size: int, bottleneck_ratio: int, width: int) -> None:
        super().__init__()
        self.adapter = ResidualMLPAdapter(hidden_size, bottleneck_ratio)
        self.norm_in = nn.LayerNorm(hidden_size)  # some channels of a large model are a thousand times the others
        self.projection = nn.Linear(hidden_size, width)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[..., H]` → `[..., W]`."""
        states = self.adapter(states.to(self.projection.weight.dtype))
        return self.norm_out(self.projection(self.norm_in(states)))
