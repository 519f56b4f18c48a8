"""The report's pictures: the worst and the best images, with true and found boxes and the model's own words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.evaluation.errors import ERROR_KINDS, ErrorAnalysis
from boxtune.evaluation.evaluate import EvaluatedImage
from boxtune.evaluation.page.figures import MAX_CLASSES, ReportedModel, short_label
from boxtune.evaluation.page.pictures import (
    PALETTE_SIZE,
    DrawnBox,
    Thumbnail,
    colour_of,
    drawn_boxes,
    text_size,
    thumbnail,
)

MAX_PICTURES: Final = 60
"""Of these the best third, where there are more images."""

MAX_TEXT: Final = 4000
"""Characters of an answer that are shown; answers.jsonl holds all."""

_BYTES_FOUND, _BYTES_TRUE = 600, 200  # of markup, more than any box takes


@dataclass(frozen=True)
class ShownAnswer:
    """What one model said of a picture.

    Attributes:
        model: its name.
        found: boxes to draw.
        missed: true boxes that nothing was matched to, to draw.
        tags: kinds of errors with their counts, and what is wrong with the answer.
        counts: how many were found and are there.
        text: the raw answer.
        text_cut: whether it is longer.
        reason: why it could not be read as it is, or empty.
    """

    model: str
    found: list[DrawnBox]
    missed: list[DrawnBox]
    tags: list[str]
    counts: str
    text: str
    text_cut: bool
    reason: str


@dataclass(frozen=True)
class Picture:
    """One picture of the gallery.

    Attributes:
        name: of the sample and its file.
        thumb: the picture.
        letters: height of the text at boxes, in pixels of the picture.
        truth: true boxes to draw.
        answers: one a model.
        kinds: error kinds of the last model, for the filter; `none` where all is right.
        labels: numbers of the labels that are true or found in it, for the filter.
        rank: `worst` or `best`, for the filter.
    """

    name: str
    thumb: Thumbnail
    letters: float
    truth: list[DrawnBox]
    answers: list[ShownAnswer]
    kinds: tuple[str, ...]
    labels: tuple[int, ...]
    rank: Literal["worst", "best"]


@dataclass(frozen=True)
class _Verdicts:
    """One model's verdicts by image: kinds in the order of found boxes, positions of missed boxes, and a grade."""

    kinds: dict[str, list[str]]
    missed: dict[str, list[int]]
    uncovered: Counter[str]
    overlap: dict[str, float]

    def grade(self, image: EvaluatedImage) -> float:
        """Sum of the IoUs of right boxes, over true boxes and wrong ones: 1 where all is found exactly."""
        wrong = sum(kind not in ("correct", "ignored") for kind in self.kinds.get(image.sample_id, ()))
        whole = len(image.truth) + wrong
        return self.overlap.get(image.sample_id, 0.0) / whole if whole else 1.0


def choose_pictures(
    models: Sequence[ReportedModel], samples: Sequence[Sample], labels: Sequence[str], max_bytes: int
) -> tuple[list[Picture], str]:
    """The pictures, worst first by the last model, and a sentence where some were left out.

    Args:
        models: judged on `samples`, in their order.
        samples: decoded one by one, as far as they are shown.
        labels: known labels in order.
        max_bytes: room for all pictures with their boxes and texts.
    """
    verdicts = [_verdicts(model.errors) for model in models]
    last = models[-1].images
    order = sorted(range(len(last)), key=lambda place: verdicts[-1].grade(last[place]))
    chosen = order
    if len(order) > MAX_PICTURES:
        num_best = MAX_PICTURES // 3
        chosen = [*order[: MAX_PICTURES - num_best], *order[-num_best:]]
    best = set(order[len(order) - len(order) // 3 :])
    records = getattr(samples, "records", None)  # a data set knows its files
    pictures: list[Picture] = []
    for place in chosen:
        sample = samples[place]  # decoded here, once
        name = sample.id if records is None else records[place].caption
        rank: Literal["worst", "best"] = "best" if place in best else "worst"
        picture = _picture(models, verdicts, sample, place, labels, name, rank)
        max_bytes -= _size(picture)
        if max_bytes < 0:
            break
        pictures.append(picture)
    return pictures, _cut(len(pictures), len(chosen), len(order))


def filters(pictures: Sequence[Picture], labels: Sequence[str]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(attribute, name, [(value, text)]) of each select; only what occurs can be chosen."""
    kinds = Counter(kind for picture in pictures for kind in picture.kinds)
    used = Counter(number for picture in pictures for number in picture.labels)
    ranks = Counter(picture.rank for picture in pictures)
    offered = [
        ("kinds", "error", [(k, f"{k} ({kinds[k]})") for k in (*ERROR_KINDS, "unreadable", "none") if kinds[k]]),
        ("labels", "label", [(str(n), f"{short_label(labels[n])} ({used[n]})") for n in sorted(used)[:MAX_CLASSES]]),
        ("rank", "pictures", [(rank, f"{rank} ({ranks[rank]})") for rank in ("worst", "best") if ranks[rank]]),
    ]
    return [one for one in offered if len(one[2]) > 1 or one[0] == "kinds"]


def legend(labels: Sequence[str]) -> list[tuple[str, str]]:
    """(label, colour) as far as colours differ."""
    return [(short_label(label), colour_of(label, labels)) for label in labels[:PALETTE_SIZE]]


def _verdicts(errors: ErrorAnalysis) -> _Verdicts:
    kinds: dict[str, list[str]] = {}
    missed: dict[str, list[int]] = {}
    overlap: dict[str, float] = {}
    uncovered: Counter[str] = Counter()
    for found in errors.found:
        kinds.setdefault(found.sample_id, []).append(found.kind)
        if found.kind == "correct":
            overlap[found.sample_id] = overlap.get(found.sample_id, 0.0) + found.iou
    for true in errors.missed:
        missed.setdefault(true.sample_id, []).append(true.index)
        uncovered[true.sample_id] += not true.covered
    return _Verdicts(kinds, missed, uncovered, overlap)


def _picture(
    models: Sequence[ReportedModel],
    verdicts: Sequence[_Verdicts],
    sample: Sample,
    place: int,
    labels: Sequence[str],
    name: str,
    rank: Literal["worst", "best"],
) -> Picture:
    image_hw = sample.image_hw
    answers = [_answer(model, of, model.images[place], labels) for model, of in zip(models, verdicts, strict=True)]
    last = models[-1].images[place]
    kinds: list[str] = [kind for kind in dict.fromkeys(verdicts[-1].kinds.get(sample.id, ())) if kind in ERROR_KINDS]
    kinds += ["missed"] * bool(verdicts[-1].uncovered[sample.id])
    kinds += ["unreadable"] * (last.prediction.result.status == "malformed")
    present = {
        *last.truth.labels,
        *(label for m in models for label in m.images[place].prediction.result.detections.labels),
    }
    return Picture(
        name=short_label(name),
        thumb=thumbnail(sample.image),
        letters=text_size(image_hw),
        truth=drawn_boxes(last.truth, image_hw, labels, texts=False),
        answers=answers,
        kinds=tuple(kinds) or ("none",),
        labels=tuple(place for place, label in enumerate(labels) if label in present),
        rank=rank,
    )


def _answer(model: ReportedModel, verdicts: _Verdicts, image: EvaluatedImage, labels: Sequence[str]) -> ShownAnswer:
    prediction = image.prediction
    found: Detections = prediction.result.detections
    kinds = verdicts.kinds.get(image.sample_id, [])
    counts = Counter(kind for kind in kinds if kind != "correct")
    counts["missed"] = verdicts.uncovered[image.sample_id]
    tags = [f"{count} {kind}" for kind, count in counts.items() if count]
    status = prediction.result.status
    if status != "ok":
        tags.append({"malformed": "unreadable answer"}.get(status, f"{status} answer"))
    if prediction.truncated:
        tags.append("at the token limit")
    return ShownAnswer(
        model=model.name,
        found=drawn_boxes(found, image.image_hw, labels, kinds),
        missed=drawn_boxes(
            image.truth.select(verdicts.missed.get(image.sample_id, [])), image.image_hw, labels, texts=False
        ),
        tags=tags,
        counts=f"{len(found)} found, {len(image.truth)} true",
        text=prediction.text[:MAX_TEXT],
        text_cut=len(prediction.text) > MAX_TEXT,
        reason=(prediction.result.reason or "")[:MAX_TEXT],
    )


def _size(picture: Picture) -> int:
    """Bytes it takes in the page, rather too many than too few: `<` is written in four, other letters in up to four."""
    boxes = sum(
        _BYTES_FOUND * len(answer.found) + _BYTES_TRUE * (len(answer.missed) + len(picture.truth))
        for answer in picture.answers
    )
    text = sum(len(answer.text) + len(answer.reason) for answer in picture.answers)
    return len(picture.thumb.uri) + boxes + 6 * text + 4000


def _cut(num_shown: int, num_chosen: int, num_images: int) -> str:
    if num_shown < num_chosen:
        return f"{num_shown} of {num_images} images: more would make the page larger than 15 MB. The worst come first."
    if num_chosen < num_images:
        num_best = MAX_PICTURES // 3
        return f"The {num_chosen - num_best} worst and the {num_best} best of {num_images} images."
    return ""
