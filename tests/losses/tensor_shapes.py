"""Shapes of the losses' tensors by name: N images, Q queries, M true boxes, K matched pairs, T tokens, V words."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int

Sum = Float[torch.Tensor, ""]
Logits = Float[torch.Tensor, "n q"]
Slots = Bool[torch.Tensor, "n q"]
FoundBoxes = Float[torch.Tensor, "n q 4"]
TrueBoxes = Float[torch.Tensor, "m 4"]
Owners = Int[torch.Tensor, "m"]
PairCosts = Float[torch.Tensor, "m q"]
PairBoxes = Float[torch.Tensor, "k 4"]
PairIndex = Int[torch.Tensor, "k"]
Tokens = Int[torch.Tensor, "k t"]
TokenLogits = Float[torch.Tensor, "k t v"]
Column = Float[torch.Tensor, "n 1 4"]
Row = Float[torch.Tensor, "m 4"]
Pairwise = Float[torch.Tensor, "n m"]
