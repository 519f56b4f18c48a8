"""What a reader of the terminal sees."""

from __future__ import annotations

import io

from rich.console import Console

from boxtune.detections import Detections
from boxtune.evaluation.metrics import MetricsAccumulator
from boxtune.evaluation.summary import print_metrics


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
