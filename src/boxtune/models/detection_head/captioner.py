"""Writes the label of a found object, token by token, in the language model's own vocabulary.

The token embedding belongs to the language model and is only lent: it turns tokens into inputs, and, transposed, states
into logits (tied, Press & Wolf 2017, arXiv 1608.05859).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from boxtune.errors import ConfigError
from boxtune.models.detection_head.attention import Attention, mlp
from boxtune.models.detection_head.config import DetectionHeadConfig

NO_TOKEN = -100  # the padding of labels, which losses ignore
_MOST_LOGITS = 2**26  # at once, while labels are scored: 256 MB in fp32


def encode_labels(labels: Sequence[str], tokenizer: Any, config: DetectionHeadConfig) -> torch.Tensor:
    """Labels as tokens `[L, T]`, each with the token that ends it, padded with −100.

    Raises:
        ConfigError: a label that is longer than the head can write.
    """
    rows = [
        torch.tensor([*tokenizer(label, add_special_tokens=False)["input_ids"], config.end_token_id])
        for label in labels
    ]
    for label, row in zip(labels, rows, strict=True):
        if len(row) > config.max_label_tokens:
            raise ConfigError(
                f"The label '{label}' has {len(row)} tokens, the detection head writes {config.max_label_tokens}: "
                "shorten it, or raise max_label_tokens and train again."
            )
    if not rows:
        return torch.zeros(0, 0, dtype=torch.long)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NO_TOKEN)


class CaptionLayer(nn.Module):
    """Attention to what was written so far, and an MLP."""

    def __init__(self, width: int, num_heads: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.norm_own, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.own = Attention(width, num_heads, dropout)
        self.mlp = mlp(width, ffn_width, dropout)
        self.drop = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[K, T, W]` → `[K, T, W]`."""
        normed = self.norm_own(states)
        states = states + self.drop(self.own(normed, normed, normed, causal=True))
        return states + self.drop(self.mlp(self.norm_mlp(states)))


class Captioner(nn.Module):
    """A decoder whose first input is the object, and whose others are the tokens written so far.

    The object's state has looked at image and question already, so no second memory is needed.
    """

    def __init__(self, config: DetectionHeadConfig) -> None:
        super().__init__()
        self.end_token_id, self.max_tokens = config.end_token_id, config.max_label_tokens
        self.from_embedding = nn.Linear(config.hidden_size, config.width)
        self.positions = nn.Parameter(torch.randn(config.max_label_tokens, config.width) * 0.02)
        self.layers = nn.ModuleList(
            CaptionLayer(config.width, config.num_heads, config.ffn_width, config.dropout)
            for _ in range(config.caption_layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.to_embedding = nn.Linear(config.width, config.hidden_size)

    def forward(self, objects: torch.Tensor, tokens: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Logits `[K, T, vocabulary]` of each token of the labels, from those before it.

        Args:
            objects: `[K, W]` states of the decoder.
            tokens: `[K, T]` labels, padded with −100; T at most `max_label_tokens`.
            embedding: `[vocabulary, H]` the language model's.
        """
        return self._logits(self._states(objects, tokens[:, :-1], embedding), embedding)

    def _states(self, objects: torch.Tensor, before: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """`[K, 1 + tokens, W]` after the object and each token `[K, tokens]`."""
        written = F.embedding(before.clamp(min=0), embedding).to(objects.dtype)
        states = torch.cat([objects[:, None], self.from_embedding(written)], 1)
        states = states + self.positions[: states.shape[1]]
        for layer in self.layers:
            states = layer(states)
        return self.to_embedding(self.norm(states))

    def _logits(self, states: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return F.linear(states.to(embedding.dtype), embedding)

    @torch.no_grad()
    def write(self, objects: torch.Tensor, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest next token, again and again until the label ends.

        Args:
            objects: `[K, W]` states of the decoder.
            embedding: `[vocabulary, H]`.

        Returns:
            Tokens `[K, T]` without the one that ends a label, padded with −100, and `[K]` log p of each whole label.
        """
        tokens = torch.zeros(len(objects), 0, dtype=torch.long, device=objects.device)
        log_probs = torch.zeros(len(objects), device=objects.device)
        ended = torch.zeros(len(objects), dtype=torch.bool, device=objects.device)
        for _ in range(self.max_tokens):
            logits = self._logits(self._states(objects, tokens, embedding)[:, -1], embedding)
            best, token = logits.float().log_softmax(-1).max(-1)
            log_probs += best.masked_fill(ended, 0)
            ended |= token == self.end_token_id
            if bool(ended.all()):
                break
            tokens = torch.cat([tokens, token.masked_fill(ended, NO_TOKEN)[:, None]], 1)
        return tokens, log_probs

    @torch.no_grad()
    def log_likelihoods(self, objects: torch.Tensor, tokens: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """`[K, L]` log p of each of the labels `[L, T]`, with its end, for each of the objects `[K, W]`."""
        num_objects, num_labels = len(objects), len(tokens)
        pairs = torch.cartesian_prod(torch.arange(num_objects), torch.arange(num_labels)).reshape(-1, 2)
        at_once = max(1, _MOST_LOGITS // (max(tokens.shape[1], 1) * len(embedding)))
        parts = []
        for chunk in pairs.to(objects.device).split(at_once):
            labels = tokens[chunk[:, 1]]
            logits = self(objects[chunk[:, 0]], labels, embedding).float()
            wrong = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=NO_TOKEN, reduction="none")
            parts.append(-wrong.sum(1))
        return torch.cat(parts).reshape(num_objects, num_labels)
