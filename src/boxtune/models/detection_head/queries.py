"""What the decoder starts from: a set of queries that looks for objects, learned or taken from the image itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from boxtune.models.detection_head.config import Queries
from boxtune.models.detection_head.positions import GridPositions

OBJECTNESS_BIAS = -2.0  # objects are rare: focal loss starts from a low probability (arXiv 1708.02002, §4.1)
_TOKEN_BOX_SIDE, _LEARNED_BOX_SIDE = 0.1, 0.3  # of the image's sides, before anything is learned
_SPREAD = 0.1  # of learned vectors at the start, small beside what the image says


class Predictions(NamedTuple):
    """Boxes with objectness before the sigmoid, of N images with Q slots each.

    Attributes:
        objectness_logits: `[N, Q]`.
        box_logits: `[N, Q, 4]` of centre x, centre y, width, height as shares of the image's sides.
        mask: `[N, Q]` True at slots that count; None for all.
    """

    objectness_logits: torch.Tensor
    box_logits: torch.Tensor
    mask: torch.Tensor | None = None

    @property
    def boxes(self) -> torch.Tensor:
        """`[N, Q, 4]` cx, cy, w, h in 0–1."""
        return self.box_logits.float().sigmoid()


class StartingQueries(NamedTuple):
    """Queries of N images: `content`, `positions` `[N, Q, W]`, boxes to start from, and what the tokens said.

    Attributes:
        content: that the decoder transforms.
        positions: added wherever queries ask.
        anchor_logits: `[N, Q, 4]` boxes before the sigmoid, that the decoder's boxes are told against.
        proposals: of every vision token, to be trained as well; None for learned queries.
    """

    content: torch.Tensor
    positions: torch.Tensor
    anchor_logits: torch.Tensor
    proposals: Predictions | None


class PredictionHeads(nn.Module):
    """Box (three layers, as DETR) and objectness (one) of each state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.box = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
        )
        self.objectness = nn.Linear(width, 1)
        nn.init.constant_(self.objectness.bias, OBJECTNESS_BIAS)

    def forward(self, states: torch.Tensor, anchor_logits: torch.Tensor) -> Predictions:
        """`[N, Q, W]` and boxes `[N, Q, 4]` to tell against → predictions, in fp32."""
        return Predictions(self.objectness(states)[..., 0].float(), self.box(states).float() + anchor_logits)


class LearnedQueries(nn.Module):
    """The same for every image (DETR, arXiv 2005.12872, §3.2), each with a learned box to begin from.

    The boxes are spread over the image and serve as position too (DAB-DETR, arXiv 2201.12329, §4.1): a query that is
    near some tokens from the start need not first learn where to look.
    """

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.randn(num_queries, width) * _SPREAD)
        self.positions = nn.Parameter(torch.randn(num_queries, width) * _SPREAD)
        sides = torch.full((num_queries, 2), _LEARNED_BOX_SIDE)
        self.anchor_logits = nn.Parameter(torch.cat([torch.rand(num_queries, 2), sides], -1).logit(eps=1e-2))

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, centres_xy: torch.Tensor, grid: GridPositions
    ) -> StartingQueries:
        """Arguments as in `TokenQueries.forward`; only the number of images is read."""
        positions = self.positions + grid(self.anchor_logits[:, :2].sigmoid()).to(self.positions.dtype)
        content, positions, anchors = (
            rows.expand(len(tokens), -1, -1) for rows in (self.content, positions, self.anchor_logits)
        )
        return StartingQueries(content, positions, anchors, proposals=None)


class TokenQueries(nn.Module):
    """From the image: each vision token proposes a box, and the likeliest ones become queries.

    The two-stage start of Deformable DETR (arXiv 2010.04159, §4.3), with content that is learned as well (DINO,
    arXiv 2203.03605, §3.4). An image with fewer tokens than queries leaves the others as they were learned.
    """

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.learned = LearnedQueries(num_queries, width)
        self.heads = PredictionHeads(width)
        self.to_content = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, centres_xy: torch.Tensor, grid: GridPositions
    ) -> StartingQueries:
        """Queries of each image.

        Args:
            tokens: `[N, V, W]` vision tokens without their positions: a proposal is told against its own place.
            mask: `[N, V]` True at real tokens.
            centres_xy: `[N, V, 2]` as shares of the sides.
            grid: positions of the memory.
        """
        sides = torch.full_like(centres_xy, _TOKEN_BOX_SIDE)
        proposals = self.heads(tokens, torch.cat([centres_xy, sides], -1).logit(eps=1e-4))._replace(mask=mask)
        learned = self.learned
        strength = proposals.objectness_logits.masked_fill(~mask, -torch.inf)
        strongest = strength.topk(min(len(learned.content), tokens.shape[1]), dim=1).indices
        missing = (0, 0, 0, len(learned.content) - strongest.shape[1])

        def at_strongest(states: torch.Tensor) -> torch.Tensor:
            """`[N, V, D]` → `[N, Q, D]`, zero where an image has no more tokens."""
            picked = states.gather(1, strongest[..., None].expand(-1, -1, states.shape[-1]))
            return F.pad(picked.masked_fill(~mask.gather(1, strongest)[..., None], 0), missing)

        # a proposal is moved by its own loss only
        told_against = at_strongest(proposals.box_logits.detach())
        anchors = torch.where(at_strongest(mask[..., None]), told_against, learned.anchor_logits)
        return StartingQueries(
            learned.content + at_strongest(self.to_content(tokens)),
            learned.positions + grid(anchors[..., :2].sigmoid()).to(tokens.dtype),
            anchors,
            proposals,
        )


def make_queries(kind: Queries, num_queries: int, width: int) -> nn.Module:
    """The queries that a configuration asks for."""
    return (TokenQueries if kind == "tokens" else LearnedQueries)(num_queries, width)
