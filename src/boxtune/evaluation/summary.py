"""Metrics for the eye: a small table in the terminal. The numbers are made in `metrics`."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from boxtune.evaluation.metrics import CONSTANT_SCORES, Metrics

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
    if metrics.truncated_rate:
        found.append(f"{metrics.truncated_rate:.0%} of the answers ran into the token limit.")
    return found


def print_metrics(metrics: Metrics, title: str, console: Console) -> None:
    """Print the headline figures, one row a class where there are several, and what to know about them.

    Args:
        metrics: the figures.
        title: what was measured.
        console: where to print.
    """
    figures = headline(metrics)
    table = Table(title=escape(title), title_justify="left")
    for name, _ in figures:
        table.add_column(name, justify="right")
    table.add_row(*(text for _, text in figures))
    console.print(table)
    if len(metrics.per_class) > 1:
        console.print(_class_table(metrics))
    for note in notes(metrics):
        console.print(escape(note), highlight=False)


def _class_table(metrics: Metrics) -> Table:
    table = Table()
    table.add_column("label")
    for name in ("AP", "AP50", "boxes"):
        table.add_column(name, justify="right")
    for label, figures in list(metrics.per_class.items())[:MAX_CLASSES]:
        table.add_row(
            escape(label), format_share(figures["ap"]), format_share(figures["ap50"]), str(figures["num_boxes"])
        )
    hidden = len(metrics.per_class) - MAX_CLASSES
    if hidden > 0:
        table.add_row(f"and {hidden} more", "", "", "")
    return table
