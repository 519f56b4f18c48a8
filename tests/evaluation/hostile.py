"""Evaluations made by hand for the tests of pages, in which every name would be markup if it were let."""

from __future__ import annotations

from html.parser import HTMLParser

from PIL import Image

from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.evaluation.evaluate import EvaluatedImage, Evaluation
from boxtune.evaluation.metrics import MetricsAccumulator
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.detector import Prediction

HOSTILE = "<script>alert('x')</script>&\"{{ 7 * 7 }}</style><!--"
TRUTH = Detections([[100, 100, 600, 500], [10, 10, 90, 90]], ["table", HOSTILE])
WRONG = Detections([[100, 100, 600, 220], [700, 600, 900, 700]], ["table", HOSTILE], [0.9, 0.3])


def sample(name: str, truth: Detections = TRUTH, image: Image.Image | None = None) -> Sample:
    return Sample(name, image or Image.new("RGB", (1000, 800), "gray"), truth, "test")


def evaluation(samples, found, text: str = "[]", status: str = "ok") -> Evaluation:
    """Each sample with the same answer."""
    accumulator = MetricsAccumulator(labels=("table", HOSTILE))
    images = []
    for one in samples:
        accumulator.update(one.id, one.image_hw, one.detections, found, status=status)
        result = DecodeResult(status, found, "" if status == "ok" else HOSTILE)
        images.append(EvaluatedImage(one.id, one.image_hw, one.detections, Prediction(result, text, False)))
    return Evaluation(accumulator.compute(num_resamples=20), tuple(images), ("table", HOSTILE))


class Outline(HTMLParser):
    """Tags of a page, those that are open, links and handlers."""

    VOID = ("meta", "image", "use", "rect", "path", "circle", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
