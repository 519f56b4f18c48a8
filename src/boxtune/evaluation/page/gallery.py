"""Pictures of a page, with true and found boxes and the models' own words: the worst and best, or the most disputed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from boxtune.data.sample import Sample
from boxtune.evaluation.errors import ERROR_KINDS, ErrorAnalysis
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.page.figures import MAX_CLASSES, short_label
from boxtune.evaluation.page.pictures import (
    PALETTE_SIZE,
    DrawnBox,
    Thumbnail,
    colour_of,
    drawn_boxes,
    text_size,
    thumbnail,
)
from boxtune.evaluation.page.reported import ReportedModel

MAX_PICTURES: Final = 60
"""Of these the best third, where there are more images."""

MAX_DISPUTED: Final = 40
"""Pictures on which models differ."""

MAX_TEXT: Final = 4000
"""Characters of an answer that are shown; answers.jsonl holds all."""

_BYTES_FOUND, _BYTES_TRUE = 600, 200  # of markup, more than any box takes
_SAME_GRADE = 1e-9


@dataclass(frozen=True)
class ShownAnswer:
    """What one model said of a picture.

    Attributes:
        model: its name.
        found: boxes to draw.
        missed: true boxes that nothing was matched to, to draw.
        tags: kinds of errors with their counts, and what is wrong with the answer.
        counts: how many were found and are there.
        text: the raw answer; None where only boxes are known.
        text_cut: whether it is longer.
        reason: why it could not be read as it is, or empty.
    """

    model: str
    found: list[DrawnBox]
    missed: list[DrawnBox]
    tags: list[str]
    counts: str
    text: str | None = None
    text_cut: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Picture:
    """One picture of the gallery.

    Attributes:
        name: of the sample and its file.
        thumb: the picture.
        letters: height of the text at boxes, in pixels of the picture.
        truth: true boxes to draw.
        answers: one a model.
        kinds: error kinds, for the filter; `none` where all is right.
        labels: numbers of the labels that are true or found in it, for the filter.
        rank: `worst` or `best`, or the place of the best model; for the filter.
    """

    name: str
    thumb: Thumbnail
    letters: float
    truth: list[DrawnBox]
    answers: list[ShownAnswer]
    kinds: tuple[str, ...]
    labels: tuple[int, ...]
    rank: str


PictureOf = Callable[[int], tuple[str, Thumbnail]]
"""Place of an image in the data set → its name and picture; called once for each that is shown."""


def pictures_of(samples: Sequence[Sample]) -> PictureOf:
    """The pictures of samples, decoded when they are asked for."""
    records = getattr(samples, "records", None)  # a data set knows its files

    def open_picture(place: int) -> tuple[str, Thumbnail]:
        sample = samples[place]
        return sample.id if records is None else records[place].caption, thumbnail(sample.image)

    return open_picture


@dataclass(frozen=True)
class _Verdicts:
    """One model's verdicts by image: kinds in the order of found boxes, positions of missed boxes, and a grade."""

    kinds: dict[str, list[str]]
    missed: dict[str, list[int]]
    uncovered: Counter[str]
    overlap: dict[str, float]

    def grade(self, image: JudgedImage) -> float:
        """Sum of the IoUs of right boxes, over true boxes and wrong ones: 1 where all is found exactly."""
        kinds = self.kinds.get(image.sample_id, ())[: len(image.predicted)]
        wrong = sum(kind not in ("correct", "ignored") for kind in kinds)
        whole = len(image.truth) + wrong
        return self.overlap.get(image.sample_id, 0.0) / whole if whole else 1.0


def choose_pictures(
    models: Sequence[ReportedModel], open_picture: PictureOf, labels: Sequence[str], max_bytes: int
) -> tuple[list[Picture], str]:
    """The pictures, worst first by the last model, and a sentence where some were left out.

    Args:
        models: judged on the same images, in the same order.
        open_picture: of the images in that order.
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
    ranks = {place: "best" if place in best else "worst" for place in chosen}
    pictures = _shown(models, verdicts, open_picture, ranks, labels, max_bytes, 1)
    return pictures, _cut(len(pictures), len(chosen), len(order))


def choose_disputed(
    models: Sequence[ReportedModel], open_picture: PictureOf, labels: Sequence[str], max_bytes: int
) -> tuple[list[Picture], str]:
    """The pictures on which the models differ most, and a sentence of how many there are; arguments as above."""
    verdicts = [_verdicts(model.errors) for model in models]
    grades = [
        [of.grade(model.images[place]) for model, of in zip(models, verdicts, strict=True)]
        for place in range(len(models[0].images))
    ]
    differing = [place for place, one in enumerate(grades) if max(one) - min(one) > _SAME_GRADE]
    order = sorted(differing, key=lambda place: min(grades[place]) - max(grades[place]))[:MAX_DISPUTED]
    ranks = {place: str(grades[place].index(max(grades[place]))) for place in order}
    pictures = _shown(models, verdicts, open_picture, ranks, labels, max_bytes, len(models))
    some = f", the {len(pictures)} with the largest difference are shown" if len(pictures) < len(differing) else ""
    return pictures, f"The models differ on {len(differing)} of {len(grades)} images{some}."


def filters(
    pictures: Sequence[Picture], labels: Sequence[str], rank_name: str, ranks: Mapping[str, str]
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(attribute, name, [(value, text)]) of each select; only what occurs can be chosen.

    Args:
        pictures: of the gallery.
        labels: known labels in order.
        rank_name, ranks: what the rank of a picture is called, and each of its values.
    """
    kinds = Counter(kind for picture in pictures for kind in picture.kinds)
    used = Counter(number for picture in pictures for number in picture.labels)
    ranked = Counter(picture.rank for picture in pictures)
    offered = [
        ("kinds", "error", [(k, f"{k} ({kinds[k]})") for k in (*ERROR_KINDS, "unreadable", "none") if kinds[k]]),
        ("labels", "label", [(str(n), f"{short_label(labels[n])} ({used[n]})") for n in sorted(used)[:MAX_CLASSES]]),
        ("rank", rank_name, [(rank, f"{short_label(ranks[rank])} ({ranked[rank]})") for rank in ranks if ranked[rank]]),
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


def _shown(
    models: Sequence[ReportedModel],
    verdicts: Sequence[_Verdicts],
    open_picture: PictureOf,
    ranks: Mapping[int, str],
    labels: Sequence[str],
    max_bytes: int,
    num_told_of: int,
) -> list[Picture]:
    """The pictures at the places of `ranks` as far as there is room; kinds are those of the last so many models."""
    told_of = list(zip(models, verdicts, strict=True))[-num_told_of:]
    pictures: list[Picture] = []
    for place, rank in ranks.items():
        name, thumb = open_picture(place)
        shown = [model.images[place] for model in models]
        image_hw = (thumb.height, thumb.width)
        present = {label for image in shown for label in (*image.truth.labels, *image.predicted.labels)}
        kinds = {kind for model, of in told_of for kind in _kinds(model, of, place)}
        picture = Picture(
            name=short_label(name),
            thumb=thumb,
            letters=text_size(image_hw),
            truth=drawn_boxes(shown[0].truth, image_hw, labels, texts=False),
            answers=[_answer(m, of, m.images[place], labels, image_hw) for m, of in zip(models, verdicts, strict=True)],
            kinds=tuple(kind for kind in (*ERROR_KINDS, "unreadable") if kind in kinds) or ("none",),
            labels=tuple(number for number, label in enumerate(labels) if label in present),
            rank=rank,
        )
        max_bytes -= _size(picture)
        if max_bytes < 0:
            break
        pictures.append(picture)
    return pictures


def _kinds(model: ReportedModel, verdicts: _Verdicts, place: int) -> list[str]:
    image = model.images[place]
    kinds = verdicts.kinds.get(image.sample_id, [])[: len(image.predicted)]
    return kinds + ["missed"] * bool(verdicts.uncovered[image.sample_id]) + ["unreadable"] * (image.readable is False)


def _answer(
    model: ReportedModel, verdicts: _Verdicts, image: JudgedImage, labels: Sequence[str], image_hw: tuple[int, int]
) -> ShownAnswer:
    kinds = verdicts.kinds.get(image.sample_id, [])
    num_own = len(image.predicted)
    # of the candidates only those that are right: the others rank below all that matters
    shown = [n for n, kind in enumerate(kinds) if n < num_own or kind == "correct"]
    counts = Counter(kind for kind in kinds[:num_own] if kind not in ("correct", "ignored"))
    counts["missed"] = verdicts.uncovered[image.sample_id]
    missed = image.truth.select(verdicts.missed.get(image.sample_id, []))
    drawn = ShownAnswer(
        model=model.name,
        found=drawn_boxes(image.ranked.select(shown), image_hw, labels, [kinds[n] for n in shown]),
        missed=drawn_boxes(missed, image_hw, labels, texts=False),
        tags=[f"{count} {kind}" for kind, count in counts.items() if count],
        counts=f"{num_own} found{_left_out(len(shown) - num_own)}, {len(image.truth)} true",
    )
    prediction = model.answers.get(image.sample_id)
    if prediction is None:
        return drawn
    status = prediction.result.status
    if status != "ok":
        drawn.tags.append({"malformed": "unreadable answer"}.get(status, f"{status} answer"))
    if prediction.truncated:
        drawn.tags.append("at the token limit")
    return replace(
        drawn,
        text=prediction.text[:MAX_TEXT],
        text_cut=len(prediction.text) > MAX_TEXT,
        reason=(prediction.result.reason or "")[:MAX_TEXT],
    )


def _left_out(count: int) -> str:
    return f" (and {count} that the answer left out)" if count else ""


def _size(picture: Picture) -> int:
    """Bytes it takes in the page, rather too many than too few: `<` is written in four, other letters in up to four."""
    boxes = sum(
        _BYTES_FOUND * len(answer.found) + _BYTES_TRUE * (len(answer.missed) + len(picture.truth))
        for answer in picture.answers
    )
    text = sum(len(answer.text or "") + len(answer.reason) for answer in picture.answers)
    return len(picture.thumb.uri) + boxes + 6 * text + 4000


def _cut(num_shown: int, num_chosen: int, num_images: int) -> str:
    if num_shown < num_chosen:
        return f"{num_shown} of {num_images} images: more would make the page larger than 15 MB. The worst come first."
    if num_chosen < num_images:
        num_best = MAX_PICTURES // 3
        return f"The {num_chosen - num_best} worst and the {num_best} best of {num_images} images."
    return ""
