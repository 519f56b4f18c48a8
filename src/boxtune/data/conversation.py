"""One sample as the conversation that a model is trained on or asked with, in the form that chat templates take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from boxtune.detections import Detections
from boxtune.grounding.codec import Codec
from boxtune.grounding.prompts import build_prompt, order_boxes

Message = dict[str, Any]


class WorkedExample(NamedTuple):
    """An image that is shown with its true answer before the one in question.

    Attributes:
        detections: true boxes, in pixels of the image.
        image_hw, input_hw: size of the image in its file and as the model sees it, in pixels.
    """

    detections: Detections
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]


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

    def question(self, labels: tuple[str, ...] | None = None, examples: Sequence[WorkedExample] = ()) -> list[Message]:
        """Messages up to the answer: an image and what is asked about it.

        Args:
            labels: instead of the style's own.
            examples: come first, each asked about in the same words, with its answer: the boxes of these labels.
        """
        asked = labels if labels is not None else self.labels
        system = [] if self.system is None else [_message("system", [_text(self.system)])]
        question = _message("user", [{"type": "image"}, _text(build_prompt(self.prompt, asked, self.codec.form))])
        turns: list[Message] = []
        for detections, image_hw, input_hw in examples:
            named = detections.select([label in asked for label in detections.labels])
            turns += [question, self.answer(named, image_hw, input_hw)]
        return [*system, *turns, question]

    def answer(self, detections: Detections, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> Message:
        """The message that names every box, in the declared order; explicit where there is none."""
        ordered = order_boxes(detections, self.box_order, image_hw)  # type: ignore[arg-type]
        return _message("assistant", [_text(self.codec.encode(ordered, image_hw, input_hw))])


def _message(role: str, content: list[dict[str, str]]) -> Message:
    return {"role": role, "content": content}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
