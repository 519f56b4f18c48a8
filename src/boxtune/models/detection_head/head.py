"""The detection head: adapters, memory, DETR decoder, and what it says of each query."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from boxtune.models.detection_head.adapters import Intake
from boxtune.models.detection_head.captioner import Captioner
from boxtune.models.detection_head.config import DetectionHeadConfig
from boxtune.models.detection_head.decoder import DetrDecoder
from boxtune.models.detection_head.memory import Memory
from boxtune.models.detection_head.positions import GridPositions
from boxtune.models.detection_head.queries import PredictionHeads, Predictions, StartingQueries, make_queries


class HeadOutputs(NamedTuple):
    """What the head says of N images with Q queries each.

    Attributes:
        states: `[N, Q, W]` of the last layer, from which labels are written.
        layers: after each layer of the decoder; the last is the answer.
        proposals: of every vision token, where queries come from tokens.
    """

    states: torch.Tensor
    layers: tuple[Predictions, ...]
    proposals: Predictions | None

    @property
    def found(self) -> Predictions:
        """The last layer's."""
        return self.layers[-1]


class DetectionHead(nn.Module):
    """Finds objects in the features of a vision-language model, all at once.

    Vision embeddings and hidden states each go through an adapter; together they are the memory that the queries of a
    DETR decoder look at. Box and objectness heads are shared by all layers, as in DETR. The captioner writes labels.
    """

    def __init__(self, config: DetectionHeadConfig) -> None:
        super().__init__()
        self.config = config
        width, ratio = config.width, config.adapter_ratio
        self.vision_intake = Intake(config.hidden_size, ratio, width)
        self.language_intake = Intake(config.hidden_size, ratio, width)
        self.kinds = nn.Parameter(torch.randn(3, width) * 0.5)  # vision, image in the language model, text
        self.positions = GridPositions(config.positions, width)
        self.queries = make_queries(config.queries, config.num_queries, width)
        self.decoder = DetrDecoder(config.decoder_layers, width, config.num_heads, config.ffn_width, config.dropout)
        self.heads = PredictionHeads(width)
        self.captioner = Captioner(config)

    def forward(self, memory: Memory) -> HeadOutputs:
        """Boxes and objectness of every query.

        Args:
            memory: of N images, as `gather_memory` fetches it: states `[N, V, H]` and `[N, T, H]`.
        """
        vision = self.vision_intake(memory.vision)
        joined, mask = self._join(vision, memory)
        start: StartingQueries = self.queries(vision, memory.image_mask, memory.centres_xy, self.positions)
        states = self.decoder(start.content, start.positions, joined, mask)
        layers = tuple(self.heads(after, start.anchor_logits) for after in states)
        return HeadOutputs(states[-1], layers, start.proposals)

    def _join(self, vision: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, torch.Tensor]:
        """The memory `[N, V + V + T, W]` and its mask. Positions are part of it: nothing else here knows a place."""
        places = self.positions(memory.centres_xy).to(vision.dtype)
        joined = [
            vision + places + self.kinds[0],
            self.language_intake(memory.image) + places + self.kinds[1],
            self.language_intake(memory.prompt) + self.kinds[2],
        ]
        return torch.cat(joined, 1), torch.cat([memory.image_mask, memory.image_mask, memory.prompt_mask], 1)

    def caption_logits(self, objects: torch.Tensor, tokens: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Logits `[K, T, vocabulary]` of the labels of matched queries, for their loss.

        Args:
            objects: `[K, W]`, `outputs.states` at the matched queries.
            tokens: `[K, T]` their true labels (see `encode_labels`).
            embedding: `[vocabulary, H]` the language model's token embedding; lent, not owned.
        """
        logits: torch.Tensor = self.captioner(objects, tokens, embedding)
        return logits
