"""The one number that a step makes smaller: terms, each a sum over a batch divided by its count over the whole step.

The whole step is all of its batches and all processes. So how samples are put into batches does not move the optimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from boxtune.losses import captions, detection, language
from boxtune.losses.detection import DetectionLossConfig, Layer, TrueObjects
from boxtune.losses.language import LanguageLossConfig
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.memory import gather_memory
from boxtune.models.detection_head.queries import Predictions
from boxtune.models.detection_head.tap import Features, tapped

Targets = Mapping[str, Any]


@dataclass(frozen=True)
class Objective:
    """Language loss, and that of a detection head where there is one.

    Attributes:
        head: attached to the model.
        losses: what its terms weigh against the language loss.
        language: what the two parts of the language loss weigh where there are worked examples.
    """

    head: DetectionHead | None = None
    losses: DetectionLossConfig = field(default_factory=DetectionLossConfig)
    language: LanguageLossConfig = field(default_factory=LanguageLossConfig)

    def watching(self, model: Any) -> AbstractContextManager[Features | None]:
        """Keeps, inside the `with`, what the head reads of the model's forward pass; nothing where there is no head."""
        return nullcontext() if self.head is None else tapped(model, self.head.config.language_layers)

    def counts(self, targets: Targets) -> dict[str, int | torch.Tensor]:
        """Term → what its sum is divided by, of one batch; add them up over the step."""
        own = {} if self.head is None else targets["detection"]["counts"]
        return {**language.counts(dict(targets)), **own}

    def sums(
        self, logits: torch.Tensor, features: Features | None, embedding: torch.Tensor, targets: Targets
    ) -> dict[str, torch.Tensor]:
        """Term → its sum over one batch, with gradients.

        Args:
            logits: `[B, K, vocabulary]` at the columns that `language.forward_options` asked for, or at all.
            features: of the same pass; see `watching`.
            embedding: `[vocabulary, H]` of the language model.
            targets: of the batch.
        """
        sums = language.totals(logits, dict(targets))
        if self.head is not None:
            assert features is not None
            sums |= self._head_sums(self.head, features, embedding, targets["detection"])
        return sums

    def _head_sums(
        self, head: DetectionHead, features: Features, embedding: torch.Tensor, targets: Targets
    ) -> dict[str, torch.Tensor]:
        outputs = head(gather_memory(*features.both, targets["memory"]))
        objects = TrueObjects(**targets["objects"])
        proposals = None if outputs.proposals is None else _layer(outputs.proposals)
        sums, matches = detection.totals(
            [_layer(one) for one in outputs.layers], objects, self.losses, proposals=proposals
        )
        tokens = objects.tokens[matches.box]
        logits = head.caption_logits(outputs.states[matches.image, matches.query], tokens, embedding)
        return {**sums, "captions": captions.total(logits, tokens)}

    def share(self, sums: Mapping[str, torch.Tensor], step_counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What a batch adds to the loss of its step."""
        text = language.weighted(sums, step_counts, self.language)
        if self.head is None:
            return text
        of_head = {name: total for name, total in sums.items() if name not in language.TERMS}
        return text + detection.weighted(of_head, step_counts, self.losses)

    def text(self, sums: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What of the sums is not the head's, together."""
        return torch.stack([sums[name] for name in language.TERMS if name in sums]).sum()


def _layer(predictions: Predictions) -> Layer:
    return Layer(predictions.objectness_logits, predictions.boxes, predictions.mask)


class TermMeans:
    """Each term's mean over the steps since it was last asked for; until then nobody waits for the device.

    A term that is not finite counts as the last one that was: one bad batch would hide all others of the interval.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._usual: dict[str, torch.Tensor] = {}
        self._before_step: dict[str, torch.Tensor] = {}
        self.num_steps = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"sums": {name: total.item() for name, total in self._sums.items()}, "num_steps": self.num_steps}

    def take_up(self, saved: Mapping[str, Any], device: torch.device) -> None:
        """Go on with what a checkpoint keeps."""
        self._sums = {name: torch.tensor(total, device=device) for name, total in saved["sums"].items()}
        self.num_steps = int(saved["num_steps"])

    def begin_step(self) -> None:
        """What is added from here on belongs to the next step."""
        self._before_step = dict(self._sums)
        self.num_steps += 1

    def add(self, sums: Mapping[str, torch.Tensor], step_counts: Mapping[str, torch.Tensor]) -> None:
        """Note one batch's part of its step."""
        for name, total in sums.items():
            part = total.detach().float() / step_counts[name].clamp(min=1)
            part = torch.where(part.isfinite(), part, self._usual.get(name, torch.zeros_like(part)))
            self._usual[name] = part
            self._sums[name] = self._sums[name] + part if name in self._sums else part

    def forget_step(self) -> None:
        """Take back what the step in hand has added; it is done again."""
        self._sums = dict(self._before_step)

    def take(self) -> tuple[list[str], torch.Tensor]:
        """Names, and means `[terms]` of this process's batches (to be added up over processes); starts anew."""
        names = list(self._sums)
        means = torch.stack([self._sums[name] for name in names]) / max(1, self.num_steps) if names else torch.zeros(0)
        self._sums, self._before_step, self.num_steps = {}, {}, 0
        return names, means
