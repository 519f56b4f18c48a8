"""What was found in one image, made out of what a model wrote about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from PIL import Image

from boxtune.data.conversation import ConversationStyle
from boxtune.detections import Detections
from boxtune.errors import ConfigError, DataError
from boxtune.grounding.codec import Codec, DecodeResult
from boxtune.inference.calibrator import Calibrator
from boxtune.inference.decoding import Answer
from boxtune.models.contract import Contract


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    Attributes:
        result: status, boxes with scores in pixels of the image, reason.
        text: the model's raw answer.
        truncated: whether the token limit ended the answer.
        candidates: boxes that the answer left out, with scores; see `candidates`. Of a detection head, those that it
            is not sure of.
        answer: the text token by token, with probabilities; None where nothing was written.
    """

    result: DecodeResult
    text: str
    truncated: bool
    candidates: Detections = field(default_factory=Detections.empty)
    answer: Answer | None = None


class AnyDetector(Protocol):
    """What is asked of whatever finds boxes: `Detector`, or another program's model behind the same face."""

    labels: tuple[str, ...]

    @property
    def batch_size(self) -> int:
        """Images that are looked at together."""

    @property
    def decoder(self) -> str:
        """Who names the boxes."""

    @property
    def score_source(self) -> str:
        """Where scores come from, in words."""

    @property
    def untaught_labels(self) -> str | None:
        """A sentence where labels are asked for that the model was not trained on."""

    def predict(
        self, images: Iterable[Image.Image], labels: Sequence[str] | None = None, *, num_candidates: int | None = None
    ) -> Iterator[Prediction]:
        """What is found in each image, in order; see `Detector.predict`."""


def asked_labels(labels: Sequence[str] | None, own: Sequence[str]) -> tuple[str, ...]:
    """The names to look for: those that are asked for, else the model's own.

    Raises:
        ConfigError: there are none, or what is given is no list of names.
    """
    asked = tuple(own) if labels is None else checked_labels(labels)
    if not asked:
        none = "this model was saved with none" if labels is None else "an empty list is given"
        raise ConfigError(f"No labels to look for: {none}, name them with --labels a,b.")
    return asked


def checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Names as they were given.

    Raises:
        ConfigError: one text, whose letters would be taken for names, or something else than texts.
    """
    if isinstance(labels, str):
        raise ConfigError(f"The labels {labels[:80]!r} are one text, not a list of names: give ['a', 'b'].")
    for label in labels:
        if not isinstance(label, str):
            raise ConfigError(f"The label {label!r} is no name: give texts, as ['a', 'b'].")
    return tuple(labels)


def checked_images(images: Iterable[Image.Image]) -> Iterable[Image.Image]:
    """Images as they were given.

    Raises:
        DataError: it is a single one.
    """
    if isinstance(images, Image.Image):
        raise DataError("One image was given, not a list of images: give [image].")
    return images


def question_style(contract: Contract, labels: tuple[str, ...]) -> ConversationStyle:
    """Questions as the model was trained on them.

    Args:
        contract: of the model.
        labels: that are named where a question names none of its own.
    """
    return ConversationStyle(contract.family.codec, labels, contract.prompt, contract.system, contract.box_order)


def made_out(
    answer: Answer,
    codec: Codec,
    image_hw: tuple[int, int],
    input_hw: tuple[int, int],
    labels: Sequence[str],
    calibrator: Calibrator | None = None,
) -> Prediction:
    """The boxes of an answer, each with a score.

    Args:
        answer: with the probability of every token.
        codec: of the family.
        image_hw, input_hw: size of the image in its file and as the model saw it, in pixels.
        labels: that were asked for.
        calibrator: makes scores mean what they say; None leaves them as they are.
    """

    def scored(answer: Answer, result: DecodeResult) -> Detections:
        scores = np.array([answer.box_score(span) for span in result.spans])
        if calibrator is not None:
            scores = calibrator.apply(scores)
        return result.detections.clipped(image_hw).with_scores(scores)

    result = codec.decode(answer.text, image_hw, input_hw, labels)
    found = replace(result, detections=scored(answer, result))
    prediction = Prediction(found, answer.text, answer.truncated, answer=answer)
    if answer.continued is None:
        return prediction
    whole = codec.decode(answer.continued.text, image_hw, input_hw, labels)
    is_candidate = [span.whole[0] >= answer.num_common_chars for span in whole.spans]
    return replace(prediction, candidates=scored(answer.continued, whole).select(is_candidate))
