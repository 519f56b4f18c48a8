"""What a reader of the terminal sees."""

from __future__ import annotations

import io

from rich.console import Console

from boxtune.detections import Detections
from boxtune.evaluation.metrics import Metrics, MetricsAccumulator
from boxtune.evaluation.summary import behind, notes, print_metrics


def printed(*images: tuple[Detections, Detections], title: str = "a model") -> str:
    accumulator = MetricsAccumulator()
    for index, (truth, predicted) in enumerate(images):
        accumulator.update(str(index), (50, 50), truth, predicted)
    console = Console(file=io.StringIO(), width=120)
    print_metrics(accumulator.compute(), title, console)
    return console.file.getvalue()


def box(label: str, score: float | None = None) -> Detections:
    return Detections([[0, 0, 10, 10]], [label], None if score is None else [score])


def test_headline_figures():
    text = printed((box("a"), box("a", 0.5)))
    for word in ("a model", "AP", "AP50", "AP75", "mean IoU", "parse rate", "images", "boxes", "1.000"):
        assert word in text
    assert "label" not in text  # one class needs no table of classes
    assert "score" not in text


def test_classes_where_there_are_several_and_markup_is_text():
    text = printed((box("[red]a"), box("[red]a", 0.5)), (box("b"), box("b", 0.4)), title="[bold]model")
    assert "[red]a" in text
    assert "[bold]model" in text


def test_with_no_found_box_there_is_no_iou_to_speak_of():
    text = printed((box("a"), Detections.empty(scored=True)), (box("a"), Detections.empty(scored=True)))
    assert "IoU: mean –, median –; found at 0.5: 0.000, at 0.7: 0.000." in text
    assert "0.000 │        – │" in " ".join(text.split(" "))


def test_notes():
    assert "constant 1.0" in printed((box("a"), box("a")))
    assert "same score" in printed((box("a"), box("a", 0.5)), (box("a"), box("a", 0.5)))
    assert "not a single true box" in printed((Detections.empty(), Detections.empty()))
    assert "1 of 1 found boxes have an unknown label" in printed((box("a"), box("c", 0.5)))


FAR = [30, 30, 40, 40]


def judged(found: Detections, candidates: Detections, count: int = 4) -> Metrics:
    accumulator = MetricsAccumulator(labels=("a",))
    for index in range(count):
        accumulator.update(str(index), (50, 50), box("a"), found, candidates=candidates)
    return accumulator.compute()


def scored(*boxes: tuple[list[int], float]) -> Detections:
    return Detections([b for b, _ in boxes], ["a"] * len(boxes), [s for _, s in boxes])


def test_where_the_candidates_do_the_finding_it_is_said():
    """Answers that find nothing, and candidates that are right: AP 1 beside a recall of 0."""
    metrics = judged(Detections.empty(scored=True), scored(([0, 0, 10, 10], 0.06), (FAR, 0.02)))
    assert (metrics.map50, metrics.detection_rate50) == (1.0, 0.0)
    (note,) = notes(metrics)
    assert note.startswith("The answers themselves found 0.000 of the true boxes (F1 0.000).")
    assert "look at 8 candidates as well" in note
    assert "Best threshold on these images: 0.06 (precision 1.000, recall 1.000, F1 1.000, candidates included)." in (
        behind(metrics)
    )


def test_where_answers_find_as_much_candidates_need_no_note():
    good = judged(scored(([0, 0, 10, 10], 0.9), (FAR, 0.3)), scored((FAR, 0.02)))
    assert good.confidence.best.f1 == 1 > good.f1_50 + 0.1  # by a threshold, not by candidates
    assert notes(good) == []


def test_where_nothing_is_right_no_threshold_is_best():
    metrics = judged(scored((FAR, 0.9), ([20, 20, 25, 25], 0.3)), Detections.empty(scored=True))
    assert metrics.confidence.points
    assert metrics.confidence.best is None
    assert "No threshold is the best: not one box is right at IoU 0.5." in behind(metrics)
    assert not any("Best threshold" in line for line in behind(metrics))
