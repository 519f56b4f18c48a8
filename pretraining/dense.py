"""Two helping heads that tell every image token where its box is; they are thrown away after the pretraining.

The answer alone is a thin signal: a model from nothing does not find out for a long time that it can be seen in the
picture. So the vision tower's output is also taught how far the sides of the box around each token are, and an early
layer of the language model where they are in the picture, with the digits that the answer will need.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

_TAPPED_LAYER = 1


class DenseHeads(nn.Module):
    """Heads on the merged vision tokens and on the image tokens of an early layer of the language model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        width = model.config.text_config.hidden_size
        self.near, self.far = nn.Linear(width, 5), nn.Linear(width, 5 + 4 * 20)
        self.seen: dict[str, torch.Tensor] = {}
        self.tapped = model.model.language_model.layers[_TAPPED_LAYER]
        self.tapped.register_forward_hook(self._keep("far"))
        model.model.visual.merger.register_forward_hook(self._keep("near"))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "tapped":  # the model's own layer is no part of this module
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _keep(self, name: str) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            self.seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def forward(self, boxes: torch.Tensor, rows: int, columns: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses of both heads; image tokens stand at `first` and after, boxes `[B, K, 4]` are shares of the sides."""
        inside, target, centres = token_targets(boxes, rows, columns)
        count, length = inside.shape
        width = self.near.in_features
        near = self._head(self.near, self.seen["near"].reshape(count, length, width))
        far = self._head(self.far, self.seen["far"].reshape(count, -1, width)[:, first : first + length])
        shift = target - centres
        return self._loss(near, inside, shift), self._loss(far, inside, target)

    def _head(self, head: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        return head(F.layer_norm(hidden.float(), hidden.shape[-1:]))

    def _loss(self, out: torch.Tensor, inside: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        share = inside.float()
        per_image = share / share.sum(1, keepdim=True).clamp(min=1)  # a small box counts as much as a large one
        total = per_image.sum().clamp(min=1)
        loss = F.binary_cross_entropy_with_logits(out[..., 0], share)
        loss = loss + 5 * ((out[..., 1:5] - target).abs().mean(-1) * per_image).sum() / total
        if out.shape[-1] > 5:
            number = (target * 1000).round().clamp(0, 999).long()
            digits = torch.stack([number // 100, number // 10 % 10], -1)  # [B, N, 4, 2]
            logits = out[..., 5:].reshape(*digits.shape, 10)
            wrong = F.cross_entropy(logits.movedim(-1, 1), digits, reduction="none").mean((-1, -2))
            loss = loss + 0.5 * (wrong * per_image).sum() / total
        return loss


def token_targets(boxes: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whether a token lies in a box `[B, N]`, the smallest such box `[B, N, 4]`, and the tokens' centres `[N, 4]`."""
    y, x = torch.meshgrid(
        (torch.arange(rows, device=boxes.device) + 0.5) / rows,
        (torch.arange(columns, device=boxes.device) + 0.5) / columns,
        indexing="ij",
    )
    centres = torch.stack([x, y], -1).reshape(1, -1, 1, 2)
    low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:]
    half = torch.tensor([0.5 / columns, 0.5 / rows], device=boxes.device)
    holds = ((centres >= low) & (centres < high)).all(-1)
    holds |= (((low + high) / 2 - centres).abs() <= half).all(-1)  # a box that is smaller than a token
    area = (high - low).prod(-1).expand_as(holds)
    holds &= area > 0
    smallest = area.masked_fill(~holds, 9.0).argmin(-1)
    target = boxes.gather(1, smallest[..., None].expand(*smallest.shape, 4))
    return holds.any(-1), target, centres[0, :, 0].repeat(1, 2)
