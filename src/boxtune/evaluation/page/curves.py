"""The report's curves: precision and recall, F1 over the threshold, reliability, loss."""

from __future__ import annotations

from collections.abc import Sequence

from boxtune.evaluation.confidence import PrecisionRecallCurve
from boxtune.evaluation.page.charts import NUM_COLOURS, Axis, Chart, Line, line_chart
from boxtune.evaluation.page.figures import ReportedModel, short_label

_RECALL, _PRECISION = Axis("recall", 0, 1), Axis("precision", 0, 1)


def charts(models: Sequence[ReportedModel], losses: Sequence[tuple[int, float]] = ()) -> list[Chart]:
    """All that can be drawn: nothing along scores where they rank nothing."""
    drawn = _precision_recall(models)
    if any(_points(model) for model in models):
        drawn.append(_along_threshold(models))
    if any(model.metrics.calibration is not None and model.metrics.calibration.bins for model in models):
        drawn.append(_reliability(models))
    drawn.append(_over_iou(models))
    if len(losses) > 1:
        drawn.append(_loss(losses))
    return drawn


def _precision_recall(models: Sequence[ReportedModel]) -> list[Chart]:
    """One chart with a line a model where there is one label, else one chart a model with a line a label."""
    title = "Precision and recall at IoU 0.50"
    if any(model.curves for model in models) and all(len(model.curves) <= 1 for model in models):
        lines = [
            _line(f"{model.name}, AP50 {model.curves[0].ap:.3f}", model.curves[0], place)
            for place, model in enumerate(models)
            if model.curves
        ]
        note = f"AP50 {models[0].curves[0].ap:.3f}" if len(models) == 1 else ""
        return [line_chart(title, lines, _RECALL, _PRECISION, note)]
    drawn = []
    for model in models:
        counts = {label: figures.get("num_boxes") or 0 for label, figures in model.metrics.per_class.items()}
        most = sorted(model.curves, key=lambda curve: -counts.get(curve.label, 0))[:NUM_COLOURS]
        lines = [_line(f"{short_label(c.label)}, AP50 {c.ap:.3f}", c, place) for place, c in enumerate(most)]
        hidden = len(model.curves) - len(most)
        note = f"The {len(most)} labels with most true boxes of {len(model.curves)}." if hidden else ""
        if lines:
            named = f"{title}: {model.name}" if len(models) > 1 else title
            drawn.append(line_chart(named, lines, _RECALL, _PRECISION, note))
    return drawn


def _line(name: str, curve: PrecisionRecallCurve, colour: int) -> Line:
    # A recall with several precisions is drawn as a drop, and the curve ends where the model finds no more.
    first = curve.precision[:1]
    return Line(name, (0.0, *curve.recall) if first else (), (*first, *curve.precision), colour)


def _points(model: ReportedModel) -> bool:
    return model.metrics.confidence is not None and bool(model.metrics.confidence.points)


def _along_threshold(models: Sequence[ReportedModel]) -> Chart:
    x, y = Axis("least score of a box that is kept", 0, 1), Axis("", 0, 1)
    lines, notes = [], []
    for place, model in enumerate(models):
        along = model.metrics.confidence
        if along is None or not along.points:
            continue
        thresholds = [point.threshold for point in along.points]
        named = f", {model.name}" if len(models) > 1 else ""
        lines.append(Line(f"F1{named}", thresholds, [point.f1 for point in along.points], place))
        if len(models) == 1:
            lines.append(Line("precision", thresholds, [point.precision for point in along.points], 1))
            lines.append(Line("recall", thresholds, [point.recall for point in along.points], 2))
        if along.best is not None:
            notes.append(f"Best F1{named}: {along.best.f1:.3f} at {along.best.threshold:.2f}.")
    note = " ".join([*notes, "Chosen on these images, so it flatters a little."] if notes else [])
    return line_chart("F1 over the score", lines, x, y, note)


def _reliability(models: Sequence[ReportedModel]) -> Chart:
    x, y = Axis("mean score", 0, 1), Axis("share that is right", 0, 1)
    lines, notes = [Line("as said, so it is", (0, 1), (0, 1), None)], []
    for place, model in enumerate(models):
        measured = model.metrics.calibration
        if measured is None or not measured.bins:
            continue
        bins = measured.bins
        lines.append(
            Line(
                model.name,
                [one.mean_score for one in bins],
                [one.share_right for one in bins],
                place,
                points=True,
                weights=[one.num_boxes for one in bins],
            )
        )
        if measured.ece is not None:
            named = f" of {model.name}" if len(models) > 1 else ""
            notes.append(f"Calibration error{named}: {measured.ece:.3f}.")
    return line_chart("Do scores mean what they say?", lines, x, y, " ".join([*notes, "A larger dot: more boxes."]))


def _over_iou(models: Sequence[ReportedModel]) -> Chart:
    lines = []
    for place, model in enumerate(models):
        by_iou = {} if model.metrics.confidence is None else model.metrics.confidence.f1_by_iou
        lines.append(Line(model.name, [float(iou) for iou in by_iou], list(by_iou.values()), place, points=True))
    means = [
        f"Mean{f' of {model.name}' if len(models) > 1 else ''}: {model.metrics.confidence.f1_mean_iou:.3f}."
        for model in models
        if model.metrics.confidence is not None and model.metrics.confidence.f1_mean_iou is not None
    ]
    note = " ".join(["All found boxes, whatever their scores.", *means])
    return line_chart("F1 by how exact a box must be", lines, Axis("IoU", 0.5, 0.95), Axis("F1", 0, 1), note)


def _loss(losses: Sequence[tuple[int, float]]) -> Chart:
    steps, values = [step for step, _ in losses], [value for _, value in losses]
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    x, y = Axis("step", min(steps), max(steps)), Axis("loss", 0, max(finite, default=1.0) or 1.0)
    return line_chart("Training loss", [Line("loss", steps, values)], x, y)
