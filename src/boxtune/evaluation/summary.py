"""Metrics for the eye: a small table in the terminal. The numbers are made in `metrics`."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from boxtune.console import plain, say
from boxtune.evaluation.errors import ERROR_KINDS, ErrorSummary
from boxtune.evaluation.intervals import Intervals
from boxtune.evaluation.metrics import CONSTANT_SCORES, Metrics

_MUCH_MORE: Final = 0.1  # of recall

MAX_CLASSES = 40
"""Rows of the table of classes; metrics.json holds the rest."""


def format_share(value: float | None) -> str:
    """Three decimals, or a dash where there was nothing to measure."""
    return "–" if value is None else f"{value:.3f}"


def headline(metrics: Metrics) -> list[tuple[str, str]]:
    """The few figures that are shown first, as (name, text); no parse rate for files of boxes, which nobody parsed."""
    answers = [] if metrics.parse_rate is None else [("parse rate", format_share(metrics.parse_rate))]
    return [
        ("AP", format_share(metrics.map)),
        ("AP50", format_share(metrics.map50)),
        ("AP75", format_share(metrics.map75)),
        ("mean IoU", format_share(metrics.mean_iou)),
        *answers,
        ("images", str(metrics.num_images)),
        ("boxes", str(metrics.num_boxes)),
    ]


FIGURE_NAMES: Final = {
    "map": "AP",
    "map50": "AP50",
    "map75": "AP75",
    "mean_iou": "mean IoU",
    "detection_rate50": "found at IoU 0.5",
    "detection_rate70": "found at IoU 0.7",
    "f1_50": "F1 at IoU 0.5",
    "parse_rate": "parse rate",
}
"""Field of `Metrics` → what it is called in tables, for those that have an interval."""


def figure_with_interval(metrics: Metrics, figure: str) -> str:
    """`0.512 [0.48, 0.55]`, safe to print by rich; a dash where there is no figure."""
    value = getattr(metrics, figure)
    interval = None if metrics.intervals is None else metrics.intervals.figures.get(figure)
    if value is None or interval is None:
        return format_share(value)
    return f"{value:.3f} [{interval.low:.2f}, {interval.high:.2f}]"


def notes(metrics: Metrics) -> list[str]:
    """What a reader must know before trusting the figures; mostly nothing."""
    found = []
    if not metrics.num_boxes:
        found.append("There is not a single true box, so there is no AP.")
    if CONSTANT_SCORES in metrics.score_source:
        found.append(f"Scores: {metrics.score_source}. AP ranks boxes by score, which it could not do here.")
    elif metrics.scores_constant:
        found.append("All boxes have the same score. AP ranks boxes by score, which it could not do here.")
    if metrics.num_unknown_label_predictions:
        found.append(
            f"{metrics.num_unknown_label_predictions} of {metrics.num_predictions} found boxes have an unknown label: "
            "wrong in precision, invisible to AP."
        )
    if _lives_on_candidates(metrics):
        found.append(
            f"The answers themselves found {format_share(metrics.detection_rate50)} of the true boxes (F1 "
            f"{format_share(metrics.f1_50)}). AP, thresholds and kinds of errors look at {metrics.num_candidates:,} "
            "candidates as well, boxes that the answers left out and that predict does not show."
        )
    if metrics.truncated_rate:
        found.append(f"{metrics.truncated_rate:.0%} of the answers ran into the token limit.")
    return found


def _lives_on_candidates(metrics: Metrics) -> bool:
    """Whether what goes by score finds much more than the answers do."""
    best = None if metrics.confidence is None else metrics.confidence.best
    if best is None or not metrics.num_candidates:
        return False
    return best.recall - (metrics.detection_rate50 or 0.0) > _MUCH_MORE


def print_metrics(metrics: Metrics, title: str, console: Console) -> None:
    """Print the headline figures with their intervals, one row a class where there are several, and what lies behind.

    Args:
        metrics: the figures.
        title: what was measured.
        console: where to print.
    """
    figures = headline(metrics)
    table = Table(title=plain(title), title_justify="left")
    for name, _ in figures:
        table.add_column(name, justify="right")
    table.add_row(*(text for _, text in figures))
    if metrics.intervals is not None:
        table.add_row(*_interval_cells(metrics.intervals, figures), style="dim")
    console.print(table)
    if len(metrics.per_class) > 1:
        console.print(_class_table(metrics))
    for line in [*behind(metrics), *notes(metrics)]:
        say(console, line)


def print_evaluation_results(metrics: Metrics, model_name: str = "Model") -> None:
    """`print_metrics` on standard output, for notebooks."""
    print_metrics(metrics, model_name, Console())


def behind(metrics: Metrics) -> list[str]:
    """What the headline rests on, a line each: overlaps, threshold, mistakes, scores. Empty without true boxes."""
    lines = []
    if metrics.num_boxes:
        lines.append(
            f"IoU: mean {format_share(metrics.mean_iou)}, median {format_share(metrics.median_iou)}; "
            f"found at 0.5: {format_share(metrics.detection_rate50)}, at 0.7: {format_share(metrics.detection_rate70)}."
        )
    lines += _threshold(metrics)
    lines += _mistakes(metrics.errors)
    if metrics.calibration is not None and metrics.calibration.ece is not None and metrics.num_boxes:
        lines.append(f"Scores are off by {format_share(metrics.calibration.ece)} on average (calibration error).")
    return lines


def _threshold(metrics: Metrics) -> list[str]:
    along = metrics.confidence
    if along is None or not along.points:
        return []
    if along.best is None:
        return ["No threshold is the best: not one box is right at IoU 0.5."]
    best = along.best
    with_candidates = ", candidates included" if metrics.num_candidates else ""
    figures = (
        f"precision {format_share(best.precision)}, recall {format_share(best.recall)}, F1 {format_share(best.f1)}"
    )
    return [f"Best threshold on these images: {best.threshold:.2f} ({figures}{with_candidates})."]


def _mistakes(errors: ErrorSummary | None) -> list[str]:
    """The kinds that occur, dearest first."""
    if errors is None:
        return []
    kinds = [kind for kind in ERROR_KINDS if errors.counts[kind]]
    kinds.sort(key=lambda kind: -(errors.dap50[kind] or 0.0))
    said = [f"{errors.counts[kind]} {kind} ({errors.dap50[kind] or 0.0:+.3f})" for kind in kinds]
    return [f"Mistakes, and what AP50 would gain without them: {', '.join(said)}."] if said else []


def _interval_cells(intervals: Intervals, figures: list[tuple[str, str]]) -> list[str]:
    by_name = {FIGURE_NAMES[field]: interval for field, interval in intervals.figures.items()}
    cells = []
    for name, _ in figures:
        interval = by_name.get(name)
        cells.append("" if interval is None else f"{interval.low:.2f}–{interval.high:.2f}")
    return cells


def _class_table(metrics: Metrics) -> Table:
    table = Table()
    table.add_column("label")
    for name in ("AP", "AP50", "boxes"):
        table.add_column(name, justify="right")
    for label, figures in list(metrics.per_class.items())[:MAX_CLASSES]:
        table.add_row(
            plain(label), format_share(figures["ap"]), format_share(figures["ap50"]), str(figures["num_boxes"])
        )
    hidden = len(metrics.per_class) - MAX_CLASSES
    if hidden > 0:
        table.add_row(f"and {hidden} more", "", "", "")
    return table
