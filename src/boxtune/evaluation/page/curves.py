"""The curves of pages: precision and recall, F1 over the threshold, reliability, loss."""

from __future__ import annotations

from collections.abc import Sequence

from boxtune.evaluation.page.charts import NUM_COLOURS, Axis, Chart, Line, line_chart
from boxtune.evaluation.page.figures import short_label
from boxtune.evaluation.page.reported import ReportedModel
from boxtune.evaluation.precision_recall import Curve
from boxtune.evaluation.ranking import RECALL_POINTS

_RECALL, _PRECISION = Axis("recall", 0, 1), Axis("precision", 0, 1)
_AP_NAMES = {"0.50": "AP50", "0.75": "AP75", "0.50:0.95": "AP"}


def charts(models: Sequence[ReportedModel], losses: Sequence[tuple[int, float]] = ()) -> list[Chart]:
    """All that can be drawn of a report, one line a label: nothing along scores where they rank nothing."""
    return [*_by_label(models), *_beside(models), *([_loss(losses)] if len(losses) > 1 else [])]


def comparing_charts(models: Sequence[ReportedModel]) -> list[Chart]:
    """The same of several models, one line a model: the mean over labels."""
    named = [(model.name, model.curves.mean) for model in models]
    return [*mean_curves(named), *_beside(models)]


def mean_curves(named: Sequence[tuple[str, dict[str, Curve]]]) -> list[Chart]:
    """Precision and recall at IoU 0.50, at 0.75, and the mean over COCO's ten; a line for each name.

    Args:
        named: (name, one of `OVERLAPS` → its curve).
    """
    titles = {"0.50": "at IoU 0.50", "0.75": "at IoU 0.75", "0.50:0.95": "mean over IoU 0.50 to 0.95"}
    drawn = []
    for overlap, where in titles.items():
        lines = [
            _line(f"{short_label(name)}, {_AP_NAMES[overlap]} {_area(curves[overlap])}", curves[overlap], place)
            for place, (name, curves) in enumerate(named)
            if overlap in curves
        ]
        if lines:
            drawn.append(line_chart(f"Precision and recall, {where}", lines, _RECALL, _PRECISION))
    return drawn


def _by_label(models: Sequence[ReportedModel]) -> list[Chart]:
    """One chart with a line a model where there is one label, else one chart a model with a line a label."""
    title, overlap = "Precision and recall at IoU 0.50", "0.50"
    curves = [{label: of[overlap] for label, of in model.curves.per_class.items()} for model in models]
    if any(curves) and all(len(one) <= 1 for one in curves):
        only = [next(iter(one.values()), None) for one in curves]
        lines = [
            _line(f"{model.name}, AP50 {_area(curve)}", curve, place)
            for place, (model, curve) in enumerate(zip(models, only, strict=True))
            if curve is not None
        ]
        note = f"AP50 {_area(only[0])}" if len(models) == 1 and only[0] is not None else ""
        return [line_chart(title, lines, _RECALL, _PRECISION, note)]
    drawn = []
    for model, by_label in zip(models, curves, strict=True):
        counts = {label: figures.get("num_boxes") or 0 for label, figures in model.metrics.per_class.items()}
        most = sorted(by_label, key=lambda label: -counts.get(label, 0))[:NUM_COLOURS]
        lines = [
            _line(f"{short_label(label)}, AP50 {_area(by_label[label])}", by_label[label], place)
            for place, label in enumerate(most)
        ]
        hidden = len(by_label) - len(most)
        note = f"The {len(most)} labels with most true boxes of {len(by_label)}." if hidden else ""
        if lines:
            named = f"{title}: {model.name}" if len(models) > 1 else title
            drawn.append(line_chart(named, lines, _RECALL, _PRECISION, note))
    return drawn


def _line(name: str, curve: Curve, colour: int) -> Line:
    """It ends where the model finds no more."""
    reached = [(recall, value) for recall, value in zip(RECALL_POINTS.tolist(), curve, strict=True) if value > 0]
    return Line(name, [recall for recall, _ in reached], [value for _, value in reached], colour)


def _area(curve: Curve) -> str:
    return f"{sum(curve) / len(curve):.3f}"


def _beside(models: Sequence[ReportedModel]) -> list[Chart]:
    """Charts along the score and along the IoU."""
    drawn = []
    if any(_points(model) for model in models):
        drawn.append(_along_threshold(models))
    if any(model.metrics.calibration is not None and model.metrics.calibration.bins for model in models):
        drawn.append(_reliability(models))
    return [*drawn, _over_iou(models)]


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
        else:
            notes.append(f"Not one box is right{named}: no threshold is the best.")
    if any(model.metrics.confidence is not None and model.metrics.confidence.best is not None for model in models):
        notes.append("Chosen on these images, so it flatters a little.")
    if any(model.metrics.num_candidates for model in models):
        notes.append("Candidates are counted, too.")
    note = " ".join(notes)
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
