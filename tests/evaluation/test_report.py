"""The page: complete, alone, and deaf to what data would have it do."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from boxtune.detections import Detections
from boxtune.errors import SaveError
from boxtune.evaluation.metrics import Metrics, MetricsAccumulator
from boxtune.evaluation.report import IMAGE_WIDTH, GalleryItem, ModelAnswer, write_report

HOSTILE = '<script>alert("x")</script>&\'$body$'
TRUTH = Detections([[100, 100, 600, 500], [10, 10, 90, 90]], ["table", HOSTILE])


def metrics(found: Detections) -> Metrics:
    accumulator = MetricsAccumulator()
    accumulator.update("1", (800, 1000), TRUTH, found)
    return accumulator.compute()


def page(path, **changes) -> str:
    perfect = TRUTH.with_scores([0.9, 0.8])
    item = GalleryItem(
        HOSTILE,
        Image.new("RGB", (1000, 800), "gray"),
        TRUTH,
        (
            ModelAnswer("before", Detections.empty(), HOSTILE, "malformed"),
            ModelAnswer("after", perfect, "[]", "repaired"),
        ),
    )
    arguments = {
        "title": HOSTILE,
        "metrics_rows": [("before", metrics(Detections.empty())), (HOSTILE, metrics(perfect))],
        "gallery": [item],
        "next_command": "boxtune train --data 'a & b'",
        "notes": [HOSTILE],
    }
    write_report(path, **(arguments | changes))
    return path.read_text(encoding="utf-8")


class _Outline(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "html"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "html":
            assert self.open.pop() == tag


def test_the_page_is_whole_and_alone(tmp_path):
    text = page(tmp_path / "report.html")
    outline = _Outline(text)
    assert outline.open == []
    assert "script" not in outline.tags
    assert outline.tags.count("figure") == outline.tags.count("details") == 2
    assert all(link.startswith("data:image/jpeg;base64,") for link in outline.links)
    assert "http" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("&lt;script&gt;") >= 6


def test_figures_before_and_after(tmp_path):
    text = page(tmp_path / "report.html")
    assert "<th scope=row>AP<small>" in text
    assert "<td>0.000</td><td class=best>1.000</td>" in text
    assert "<th scope=row>True boxes</th><td>2</td><td>2</td>" in text
    assert "boxtune train --data &#x27;a &amp; b&#x27;" in text
    assert "<span class=malformed>malformed</span>" in text


def test_pictures_are_small_and_hold_the_boxes(tmp_path):
    text = page(tmp_path / "report.html")
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", text)
    ]
    assert [picture.size for picture in pictures] == [(IMAGE_WIDTH, 512)] * 2
    line = pictures[1].crop((150, 60, 300, 70)).getextrema()  # the table's upper edge, at 0.64 × 100
    assert max(high for _, high in line) > 240
    assert min(low for low, _ in line) < 20


def test_a_page_without_gallery_and_command(tmp_path):
    text = page(tmp_path / "report.html", gallery=[], next_command=None, notes=[], title="Plain", metrics_rows=[])
    outline = _Outline(text)
    assert "figure" not in outline.tags
    assert "code" not in outline.tags


def test_lone_surrogates_do_not_stop_it(tmp_path):
    assert "half ?" in page(tmp_path / "report.html", title="half \ud800")


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(SaveError, match="cannot be written"):
        page(tmp_path / "absent" / "report.html")
