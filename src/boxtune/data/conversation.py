"""One sample as the conversation that a model is trained on or asked with, in the form that chat templates take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from boxtune.detections import Detections
from boxtune.grounding.codec import Codec
from boxtune.grounding.prompts import build_prompt, order_boxes

Message = dict[str, Any]


@dataclass(frozen=True)
class ConversationStyle:
    """How a model is asked and answers; saved with the checkpoint and used again at inference.

    Attributes:
        codec: the family's coordinates and text form.
        labels: class names that the prompt names.
        prompt: template with `{labels}`, or None for the family's own.
        system: system message, or None for the chat template's own.
        box_order: order of the boxes in an answer.
    """

    codec: Codec
    labels: tuple[str, ...]
    prompt: str | None = None
    system: str | None = None
    box_order: str = "raster"

    def question(self, labels: tuple[str, ...] | None = None) -> list[Message]:
        """Messages up to the answer: an image and what is asked about it (`labels` instead of the style's own)."""
        text = build_prompt(self.prompt, labels if labels is not None else self.labels, self.codec.form)
        system = [] if self.system is None else [_message("system", [_text(self.system)])]
        return [*system, _message("user", [{"type": "image"}, _text(text)])]

    def answer(self, detections: Detections, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> Message:
        """The message that names every box, in the declared order; explicit where there is none."""
        ordered = order_boxes(detections, self.box_order, image_hw)  # type: ignore[arg-type]
        return _message("assistant", [_text(self.codec.encode(ordered, image_hw, input_hw))])


def _message(role: str, content: list[dict[str, str]]) -> Message:
    return {"role": role, "content": content}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
