"""What the page does with what it is given, without a page."""

from __future__ import annotations

import logging
from dataclasses import replace
from urllib.parse import quote

import gradio as gr
import pytest
from PIL import Image

from app.conftest import make_run
from boxtune.app.handlers import MAX_PHOTOS, PER_PAGE, Handlers
from boxtune.errors import DataError
from serve.running import png


def put(handlers: Handlers, name: str, content: bytes) -> tuple[str, None]:
    (handlers.folder / name).write_bytes(content)
    return str(handlers.folder / name), None


PICTURE = png(Image.new("RGB", (40, 30)))


def test_photos_are_checked_when_they_come(handlers):
    good = put(handlers, "good.png", PICTURE)
    assert handlers.take_photos([good, good]) == ([good[0]] * 2, "2 photos chosen.")
    assert handlers.take_photos(None) == ([], "No picture chosen.")
    for bad, words in (
        (put(handlers, "text.png", b"hello"), "no image that can be read"),
        (put(handlers, "cut.png", PICTURE[:50]), "cut short"),
        (put(handlers, "bomb.png", png(Image.new("1", (2000, 2000)))), "limit is 1,000,000"),
        (put(handlers, "large.png", bytes(300_000)), "limit is 200,000"),
        (put(handlers, "strip.png", png(Image.new("L", (900, 1)))), "cut it into parts"),
        (("/etc/passwd", None), "not uploaded here"),
        ((f"{handlers.folder}/../data/1.png", None), "not uploaded here"),
        ((str(handlers.folder / "nothing.png"), None), "not uploaded here"),
    ):
        with pytest.raises(gr.Error, match=words):
            handlers.take_photos([good, bad])
    with pytest.raises(gr.Error, match="drop at most"):
        handlers.take_photos([good] * (MAX_PHOTOS + 1))


def test_pages_of_the_data_set(handlers):
    assert [len(handlers.thumbnails(page)) for page in (1, 2, 3, -5)] == [PER_PAGE, 3, 0, 0]
    picked = gr.SelectData(None, {"index": 2, "value": None})
    assert handlers.take_sample(2, picked) == ([14], "Picture 15 of 15: 15")
    with pytest.raises(gr.Error, match="has no picture 16"):
        handlers.take_sample(2, gr.SelectData(None, {"index": 3, "value": None}))


def test_what_cannot_be_asked_is_said(handlers):
    asked = {"first_decoder": "text", "second": "", "second_decoder": "text", "labels": "", "threshold": 0.0}
    with pytest.raises(gr.Error, match="No picture is chosen"):
        handlers.find([], "tiny:qwen2_vl", **asked)
    with pytest.raises(gr.Error, match="not one of the models"):
        handlers.find([0], "/etc", **asked)
    with pytest.raises(gr.Error, match="no detection head"):
        handlers.find([0], "tiny:qwen2_vl", **{**asked, "first_decoder": "head"})
    with pytest.raises(gr.Error, match="3000 characters"):
        handlers.find([0], "tiny:qwen2_vl", **{**asked, "labels": "a" * 3000})


def test_other_errors_keep_their_inside_to_the_log(handlers, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(type(handlers.models), "look", broken)
    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error, match=r"^'RuntimeError; the terminal") as error:
        handlers.find([0], "tiny:qwen2_vl", "text", "", "text", "", 0.0)
    assert "secret" not in str(error.value)
    assert "a secret" in caplog.text


def test_names_in_messages_are_escaped():
    from boxtune.app.handlers import told

    with pytest.raises(gr.Error, match="&lt;b&gt;"), told():
        raise DataError("'<b>' is wrong")


def test_labels_and_two_models(handlers):
    page, found, truth = handlers.find(
        [0], "tiny:qwen2_vl", "text", "tiny:qwen2_vl", "text", " red cell, table,table", 0.0
    )
    assert page.count("<figure>") == 2
    assert truth.visible
    assert [one.labels for one in found] == [("red cell", "table")] * 2
    first, second = handlers.downloads(found, 0.0)
    assert (first.value is not None, second.visible) == (True, True)
    alone, hidden = handlers.downloads(found[:1], 0.0)
    assert (alone.visible, hidden.visible) == (True, False)


def test_true_boxes_are_offered_where_there_are_any(handlers):
    photo, _ = put(handlers, "good.png", PICTURE)
    asked = ("tiny:qwen2_vl", "text", "", "text", "", 0.0)
    pages = [handlers.find(chosen, *asked) for chosen in ([photo], [0])]
    assert [truth.visible for _, _, truth in pages] == ["bt-truth" in page for page, _, _ in pages] == [False, True]


def test_the_first_report_is_shown(handlers):
    runs = handlers.catalogue.runs
    _, _, report, frame = handlers.lists()
    assert (report.value, report.visible) == (str(runs / "one"), True)
    assert frame == handlers.report(str(runs / "one"))
    make_run(runs / "a", "<!doctype html>")
    _, _, report, frame = handlers.lists()
    assert report.value == str(runs / "a")
    assert quote(str(runs / "a"), safe="") in frame


def test_no_report_is_said(handlers):
    (handlers.catalogue.runs / "one" / "report.html").unlink()
    for catalogue, where in (
        (handlers.catalogue, f"below {handlers.catalogue.runs}."),
        (replace(handlers.catalogue, runs=None), "no --runs was given."),
    ):
        _, _, report, frame = replace(handlers, catalogue=catalogue).lists()
        assert (report.value, report.visible) == (None, False)
        assert "No report yet" in frame
        assert where in frame
