"""The decoder of DETR: queries look at each other and at the memory, and become objects.

Carion et al. 2020 (arXiv 2005.12872, §3.2 and fig. 10); normalised before each part instead of after it, which needs
no slow start (Xiong et al. 2020, arXiv 2002.04745).
"""

from __future__ import annotations

import torch
from torch import nn

from boxtune.models.detection_head.attention import Attention, mlp


class DecoderLayer(nn.Module):
    """Attention among the queries, attention of the queries to the memory, an MLP."""

    def __init__(self, width: int, num_heads: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.norm_own, self.norm_memory, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.own = Attention(width, num_heads, dropout)
        self.memory = Attention(width, num_heads, dropout)
        self.mlp = mlp(width, ffn_width, dropout)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, states: torch.Tensor, positions: torch.Tensor, memory: torch.Tensor, memory_mask: torch.Tensor
    ) -> torch.Tensor:
        """One layer on `[N, Q, W]`; arguments as in `DetrDecoder.forward`."""
        normed = self.norm_own(states)
        states = states + self.drop(self.own(normed + positions, normed + positions, normed))
        normed = self.norm_memory(states)
        states = states + self.drop(self.memory(normed + positions, memory, memory, key_mask=memory_mask))
        return states + self.drop(self.mlp(self.norm_mlp(states)))


class DetrDecoder(nn.Module):
    """Layers one after the other, each of whose states is an answer."""

    def __init__(self, num_layers: int, width: int, num_heads: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, num_heads, ffn_width, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, content: torch.Tensor, positions: torch.Tensor, memory: torch.Tensor, memory_mask: torch.Tensor
    ) -> list[torch.Tensor]:
        """States `[N, Q, W]` after each layer, normalised.

        Args:
            content: `[N, Q, W]` that the queries start with.
            positions: `[N, Q, W]` added wherever queries ask.
            memory: `[N, M, W]`.
            memory_mask: `[N, M]` True at real entries.
        """
        states, after_each = content, []
        for layer in self.layers:
            states = layer(states, positions, memory, memory_mask)
            after_each.append(self.norm(states))
        return after_each
