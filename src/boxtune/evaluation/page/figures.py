"""The report's figures as text: cards, and tables with a row or column a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from boxtune.evaluation.average_precision import AREAS
from boxtune.evaluation.errors import ERROR_KINDS, ErrorKind
from boxtune.evaluation.metrics import Metrics
from boxtune.evaluation.page.reported import ReportedModel
from boxtune.evaluation.summary import format_share

MAX_CLASSES: Final = 200
"""Rows of the table of classes; metrics.json holds the rest."""

UNANIMOUS: Final = (
    "Where all n images agree, as in a figure of 1.000, redrawing them moves nothing. The interval is then what they "
    "leave open: a share of about 3/n of such images may be otherwise (rule of three)."
)

_LONGEST_LABEL = 80


@dataclass(frozen=True)
class Figure:
    """A figure as text.

    Attributes:
        name, meaning: what it is.
        text: the number, or a dash.
        interval: `0.21 to 0.34`, or empty.
        best: whether it is the best of several models.
    """

    name: str
    meaning: str
    text: str
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class TableOfFigures:
    """Rows of figures under named columns; `corner` names the rows."""

    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Figure, ...]], ...]


_HEADLINE: Final = (
    ("AP", "map", "COCO average precision over IoU 0.50 to 0.95"),
    ("AP50", "map50", "average precision at IoU 0.50"),
    ("AP75", "map75", "average precision at IoU 0.75"),
    ("Mean IoU", "mean_iou", "of found boxes that met a true one"),
    ("Found", "detection_rate50", "share of true boxes found at IoU 0.50"),
    ("F1", "f1_50", "of precision and recall at IoU 0.50"),
    ("Readable answers", "parse_rate", "as written or repaired"),
)
_MORE: Final = (
    ("Precision", "precision50", "share of found boxes that are right at IoU 0.50"),
    ("Found at IoU 0.70", "rate70", "share of true boxes"),
    ("Mean IoU, misses as 0", "mean_iou_all", "over all true boxes"),
    ("Median IoU", "median_iou", "of found boxes that met a true one"),
    ("Average recall", "ar100", "COCO, over IoU 0.50 to 0.95"),
    ("Error of the count", "count_error", "mean difference of found and true boxes in an image"),
    ("Repaired answers", "repaired_rate", "readable after mending"),
    ("Unreadable answers", "malformed_rate", ""),
    ("Answers at the token limit", "truncated_rate", ""),
    ("Images", "num_images", ""),
    ("True boxes", "num_boxes", ""),
    ("Found boxes", "num_predictions", ""),
)
_LOWER_IS_BETTER: Final = frozenset({"count_error", "malformed_rate", "truncated_rate"})
_NEITHER: Final = frozenset({"repaired_rate", "num_images", "num_boxes", "num_predictions"})

ERROR_MEANINGS: Final[dict[ErrorKind, str]] = {
    "classification": "right place, wrong label",
    "localisation": "right label, IoU 0.1 to 0.5 only",
    "both": "wrong label and place",
    "duplicate": "the object was found already",
    "background": "nothing is there",
    "missed": "a true box that nothing was meant for",
}


def cards(model: ReportedModel) -> list[Figure]:
    """The headline of one model."""
    return [_figure(name, field, meaning, model.metrics) for name, field, meaning in _HEADLINE]


def model_table(models: Sequence[ReportedModel]) -> TableOfFigures:
    """The headline of several models, a row each."""
    columns = [_compared(name, field, meaning, models) for name, field, meaning in _HEADLINE]
    rows = tuple((model.name, "", tuple(column[place] for column in columns)) for place, model in enumerate(models))
    return TableOfFigures("model", tuple(name for name, _, _ in _HEADLINE), rows)


def more_table(models: Sequence[ReportedModel]) -> TableOfFigures:
    """Everything beside the headline, a column a model."""
    rows = tuple((name, meaning, tuple(_compared(name, field, "", models))) for name, field, meaning in _MORE)
    return TableOfFigures("", _names(models), rows)


def class_table(models: Sequence[ReportedModel], labels: Sequence[str]) -> TableOfFigures:
    """AP and AP50 of each label."""

    def of(label: str, key: str) -> Callable[[ReportedModel], Any]:
        return lambda model: model.metrics.per_class.get(label, {}).get(key)

    rows = []
    for label in labels[:MAX_CLASSES]:
        count = max((int(of(label, "num_boxes")(model) or 0) for model in models), default=0)
        both = [_marked([of(label, key)(model) for model in models]) for key in ("ap", "ap50")]
        rows.append(
            (short_label(label), _boxes(count), tuple(figure for pair in zip(*both, strict=True) for figure in pair))
        )
    return TableOfFigures("label", _columns(models, ("AP", "AP50")), tuple(rows))


def size_table(models: Sequence[ReportedModel]) -> TableOfFigures:
    """AP of COCO's three sizes."""
    meanings = {"small": "below 32² px", "medium": "32² to 96² px", "large": "above 96² px"}
    areas = [area for image in (models[0].images if models else ()) for area in image.truth.areas.tolist()]
    limits = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}
    rows = []
    for size in AREAS[1:]:
        low, high = limits[size]
        count = _boxes(sum(low <= area < high for area in areas))
        figures = _marked([getattr(model.metrics, f"map_{size}") for model in models])
        rows.append((size, f"{meanings[size]}, {count}", tuple(figures)))
    return TableOfFigures("true boxes", _columns(models, ("AP",)), tuple(rows))


def error_bars(models: Sequence[ReportedModel]) -> list[tuple[str, list[tuple[str, float, str, str]]]]:
    """Of each model: (kind, length of its bar 0–1, count and cost, meaning), the most costly kind first.

    The bars of all models are of one scale.
    """
    longest = max((cost or 0.0 for model in models for cost in model.errors.summary.dap50.values()), default=0.0)
    return [(model.name, _bars(model, longest or 1.0)) for model in models]


def _bars(model: ReportedModel, longest: float) -> list[tuple[str, float, str, str]]:
    summary = model.errors.summary
    costs = {kind: summary.dap50[kind] or 0.0 for kind in ERROR_KINDS}
    return [
        (
            kind,
            max(0.0, costs[kind]) / longest,
            f"{summary.counts[kind]}{'' if summary.dap50[kind] is None else f', AP50 +{costs[kind]:.3f}'}",
            ERROR_MEANINGS[kind],
        )
        for kind in sorted(ERROR_KINDS, key=lambda kind: -costs[kind])
    ]


def error_groups(
    models: Sequence[ReportedModel],
) -> list[tuple[str, str, list[tuple[str, int, float, str]]]]:
    """Of each kind that occurs: name, meaning, and of each model (name, number, length of its bar 0–1, count and cost).

    The most costly kind first; the bars are of one scale.
    """
    counts = [model.errors.summary.counts for model in models]
    of_models = [{kind: (share, text) for kind, share, text, _ in bars} for _, bars in error_bars(models)]
    occurring = [kind for kind in ERROR_KINDS if any(of_model[kind] for of_model in counts)]
    order = sorted(occurring, key=lambda kind: -max(of_model[kind][0] for of_model in of_models))
    return [
        (
            kind,
            ERROR_MEANINGS[kind],
            [(model.name, number, *of_models[number][kind]) for number, model in enumerate(models)],
        )
        for kind in order
    ]


def interval_note(models: Sequence[ReportedModel]) -> str:
    """What the intervals are."""
    known = [model.metrics.intervals for model in models if model.metrics.intervals is not None]
    if not known:
        return ""
    note = (
        f"Below a figure: its {known[0].level:.0%} interval, from {known[0].num_resamples:,} redrawings of the images. "
        "It tells how far the figure would move with other images of the same kind, not with another training."
    )
    return f"{note} {UNANIMOUS}" if any(intervals.unanimous for intervals in known) else note


def candidates_note(models: Sequence[ReportedModel]) -> str:
    """What the counts of errors hold that the pictures do not show."""
    count = sum(model.metrics.num_candidates for model in models)
    if not count:
        return ""
    return (
        f"The bars count {count:,} candidates as well, boxes that the answers left out. Pictures show and filter the "
        "answers, and of candidates only those that are right."
    )


def cut_note(labels: Sequence[str]) -> str:
    """Said where the table of classes was cut."""
    return (
        f"The first {MAX_CLASSES} of {len(labels)} labels; metrics.json has all." if len(labels) > MAX_CLASSES else ""
    )


def short_label(label: str) -> str:
    """A label that fits a table."""
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def _figure(name: str, field: str, meaning: str, metrics: Metrics, best: bool = False) -> Figure:
    value = getattr(metrics, field)
    text = f"{value:,}" if isinstance(value, int) else format_share(value)
    interval = None if metrics.intervals is None else metrics.intervals.figures.get(field)
    return Figure(name, meaning, text, f"{interval.low:.3f} to {interval.high:.3f}" if interval else "", best)


def _compared(name: str, field: str, meaning: str, models: Sequence[ReportedModel]) -> list[Figure]:
    marked = _marked(
        [getattr(model.metrics, field) for model in models],
        lower=field in _LOWER_IS_BETTER,
        neither=field in _NEITHER,
    )
    return [_figure(name, field, meaning, model.metrics, one.best) for model, one in zip(models, marked, strict=True)]


def _marked(values: Sequence[float | None], *, lower: bool = False, neither: bool = False) -> list[Figure]:
    """Each value as text; the best of several that differ is marked."""
    known = [value for value in values if value is not None]
    best = (min if lower else max)(known) if len(set(known)) > 1 and not neither else None
    return [Figure("", "", format_share(value), best=best is not None and value == best) for value in values]


def _names(models: Sequence[ReportedModel]) -> tuple[str, ...]:
    return tuple(model.name if len(models) > 1 else "" for model in models)


def _columns(models: Sequence[ReportedModel], figures: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{figure} {model.name}" if len(models) > 1 else figure for model in models for figure in figures)


def _boxes(count: int) -> str:
    return f"{count:,} true {'box' if count == 1 else 'boxes'}"
