"""A comparison to look at: one HTML page that stands alone, made of the same pieces as the report of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from boxtune.data.sample import Sample
from boxtune.evaluation.coco import ScoredFiles
from boxtune.evaluation.compare import Comparison
from boxtune.evaluation.evaluate import Evaluation
from boxtune.evaluation.page import curves, figures, gallery
from boxtune.evaluation.page.annotated import pictures_of_annotations
from boxtune.evaluation.page.differences import difference_table, verdict
from boxtune.evaluation.page.render import render, write_page
from boxtune.evaluation.page.reported import ReportedModel, reported_boxes, reported_evaluation
from boxtune.evaluation.report import MAX_BYTES, REST_BYTES
from boxtune.evaluation.summary import notes as metric_notes

PAGE_FILE: Final = "comparison.html"


def write_models_page(
    path: Path,
    comparison: Comparison,
    evaluations: Mapping[str, Evaluation],
    samples: Sequence[Sample],
    title: str,
) -> None:
    """Write the page of models that were asked here.

    Args:
        path: file to write.
        comparison: of `compare_models(evaluations)`.
        evaluations: name → its evaluation, the baseline first.
        samples: that they were judged on; those on which the models differ most are decoded and shown.
        title: heading.

    Raises:
        SaveError: the file cannot be written.
    """
    models = [reported_evaluation(name, one) for name, one in evaluations.items()]
    notes = [f"{name}: {note}" for name, one in evaluations.items() for note in one.notes]
    write_page(path, _page(comparison, models, gallery.pictures_of(samples), title, notes))


def write_files_page(
    path: Path, comparison: Comparison, scored: Mapping[str, ScoredFiles], annotations: Path, title: str
) -> None:
    """Write the page of files of boxes; pictures are looked for where the annotations say.

    Args:
        path: file to write.
        comparison: of `compare_scored(scored)`.
        scored: name → its boxes and figures, the baseline first.
        annotations: the COCO file that they were judged by.
        title: heading.

    Raises:
        SaveError: the file cannot be written.
    """
    models = [reported_boxes(name, one.metrics, one.images) for name, one in scored.items()]
    open_picture = pictures_of_annotations(annotations, [model.images for model in models])
    write_page(path, _page(comparison, models, open_picture, title))


def _page(
    comparison: Comparison,
    models: Sequence[ReportedModel],
    open_picture: gallery.PictureOf,
    title: str,
    notes: Sequence[str] = (),
) -> str:
    first, compared = comparison.models[0].name, comparison.models[1:]
    judged = f"{comparison.num_images:,} images"
    labels = list(dict.fromkeys(label for model in models for label in model.metrics.per_class))
    with_truth = [label for label in labels if any(m.metrics.per_class.get(label, {}).get("num_boxes") for m in models)]
    pictures, said = gallery.choose_disputed(models, open_picture, labels, MAX_BYTES - REST_BYTES)
    names = {str(place): model.name for place, model in enumerate(models)}
    return render(
        "evaluation/page/comparison.html",
        title=title,
        notes=[*notes, *(f"{model.name}: {note}" for model in models for note in metric_notes(model.metrics))],
        lead=f"{judged}, the same for all. The baseline is {first}.",
        model_table=figures.model_table(models),
        interval_note=figures.interval_note(models),
        verdicts=[verdict(model.name, first, model.against_baseline, judged) for model in compared],
        difference_table=difference_table({model.name: model.against_baseline for model in compared}),
        level=f"{comparison.level:.0%}",
        charts=curves.comparing_charts(models),
        error_groups=figures.error_groups(models),
        candidates_note=figures.candidates_note(models),
        class_table=figures.class_table(models, with_truth) if len(with_truth) > 1 else None,
        class_cut=figures.cut_note(with_truth),
        size_table=figures.size_table(models),
        more_table=figures.more_table(models),
        pictures=pictures,
        pictures_said=said,
        filters=gallery.filters(pictures, labels, "best model", names),
        legend=gallery.legend(labels),
    )
