"""A report to look at: one HTML page that stands alone, with the figures of one or more models and their pictures.

Nothing is measured here: figures are those of `Metrics`, curves and verdicts those of the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from boxtune.data.sample import Sample
from boxtune.errors import DataError
from boxtune.evaluation.evaluate import Evaluation
from boxtune.evaluation.page import curves, figures, gallery
from boxtune.evaluation.page.render import render, write_page
from boxtune.evaluation.page.reported import reported_evaluation
from boxtune.evaluation.predictions import category_labels
from boxtune.evaluation.summary import notes as metric_notes

MAX_BYTES: Final = 15_000_000
"""The page is never larger: pictures are left out, and it says so."""

REST_BYTES: Final = 1_500_000
"""Of that for everything but pictures."""


def write_report(
    path: Path,
    *,
    title: str,
    models: Sequence[tuple[str, Evaluation]],
    samples: Sequence[Sample] | None = None,
    losses: Sequence[tuple[int, float]] = (),
    next_command: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page; it needs no network and no other file.

    Args:
        path: file to write.
        title: heading.
        models: (name, evaluation), in the order before, after; all of the same samples.
        samples: those samples, for the pictures; only the chosen ones are decoded. None leaves pictures out.
        losses: `(step, loss)` of the training before, for a curve.
        next_command: what to type next.
        notes: plain sentences at the top; those that the figures call for come by themselves.

    Raises:
        SaveError: the file cannot be written.
        DataError: models were judged on different images.
    """
    write_page(path, report_html(title, models, samples, losses, next_command, notes))


def report_html(
    title: str,
    models: Sequence[tuple[str, Evaluation]],
    samples: Sequence[Sample] | None = None,
    losses: Sequence[tuple[int, float]] = (),
    next_command: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The page as text; arguments as for `write_report`."""
    _check_same_images(models)
    reported = [reported_evaluation(name, evaluation) for name, evaluation in models]
    truths = [image.truth for image in models[0][1].images] if models else []
    labels = category_labels([label for _, one in models for label in one.labels], truths)
    pictures: list[gallery.Picture] = []
    cut = ""
    if samples is not None and reported:
        opened = gallery.pictures_of(samples)
        pictures, cut = gallery.choose_pictures(reported, opened, labels, MAX_BYTES - REST_BYTES)
    own_notes = [
        f"{name}: {note}" if len(models) > 1 else note
        for name, evaluation in models
        for note in (*evaluation.notes, *metric_notes(evaluation.metrics))
    ]
    return render(
        "evaluation/page/report.html",
        title=title,
        notes=[*notes, *own_notes],
        next_command=next_command,
        models=reported,
        cards=figures.cards(reported[0]) if len(reported) == 1 else [],
        interval_note=figures.interval_note(reported),
        model_table=figures.model_table(reported),
        more_table=figures.more_table(reported),
        class_table=figures.class_table(reported, labels),
        class_cut=figures.cut_note(labels),
        size_table=figures.size_table(reported),
        error_bars=figures.error_bars(reported),
        candidates_note=figures.candidates_note(reported),
        charts=curves.charts(reported, losses),
        pictures=pictures,
        pictures_cut=cut,
        filters=gallery.filters(pictures, labels, "pictures", {"worst": "worst", "best": "best"}),
        legend=gallery.legend(labels),
    )


def _check_same_images(models: Sequence[tuple[str, Evaluation]]) -> None:
    ids = [[image.sample_id for image in evaluation.images] for _, evaluation in models]
    for (name, _), of_model in zip(models, ids, strict=True):
        if of_model != ids[0]:
            raise DataError(f"'{name}' was judged on other images than '{models[0][0]}': evaluate both on the same.")
