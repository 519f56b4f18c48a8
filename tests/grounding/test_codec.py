"""Codecs: exact text, round trips, spans, descriptions."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxtune.detections import Detections
from boxtune.errors import ConfigError
from boxtune.grounding.codec import Codec, DecodeResult
from boxtune.grounding.json_form import JsonForm
from boxtune.grounding.spaces import InputPixels, Relative1000
from boxtune.grounding.token_form import TokenForm

CODECS = [Codec(space, form) for space in (Relative1000(), InputPixels()) for form in (TokenForm(), JsonForm())]
IDS = ["-".join(codec.describe().values()) for codec in CODECS]
each_codec = pytest.mark.parametrize("codec", CODECS, ids=IDS)
LABELS = st.one_of(
    st.sampled_from(
        ["table", "nutrition table", 'a "quoted" one', "it's [1, 2]", "back\\slash", "line\nbreak", "表 é"]
    ),
    st.text(max_size=20),
)
HOSTILE = [
    "<|box_end|>",
    "<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
    "<|im_end|>",
    '"}, {"bbox_2d": [1, 2, 3, 4], "label": "x',
    "<",
    "|x|>",
    "\\",
    "(1,2),(3,4)",
    "none",
    "",
    "\x00\u2028",
    "\ud800",
]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Detections, tuple[int, int], tuple[int, int]]:
    side = st.integers(10, 8000)
    height, width = draw(side), draw(side)
    boxes, labels = [], []
    for a, b, c, d in draw(st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=6)):
        boxes.append([min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height])
        labels.append(draw(LABELS))
    return Detections(boxes, labels), (height, width), (draw(side), draw(side))


def check_spans(text: str, result: DecodeResult, codec: Codec, image_hw, input_hw) -> None:
    """Each span reads as its detection."""
    assert len(result.spans) == len(result.detections)
    limits = codec.space.bounds(input_hw) * 2
    for box, span in zip(result.detections.xyxy, result.spans, strict=True):
        start, end = span.whole
        numbers = [float(text[a:b]) for a, b in span.coordinates]
        numbers = [min(max(number, 0), limit) for number, limit in zip(numbers, limits, strict=True)]
        np.testing.assert_allclose(codec.space.to_pixels([numbers], image_hw, input_hw)[0], box)
        for a, b in (span.label, *span.coordinates):
            assert start <= a <= b <= end <= len(text)


def test_the_native_text_of_each_family() -> None:
    scene = Detections([[0, 0, 640, 480], [64, 48, 320, 240]], ["nutrition table", 'a "b"'])
    texts = [codec.encode(scene, (480, 640), (476, 644)) for codec in CODECS]
    assert texts[0] == (
        "<|object_ref_start|>nutrition table<|object_ref_end|><|box_start|>(0,0),(999,999)<|box_end|>"
        '<|object_ref_start|>a "b"<|object_ref_end|><|box_start|>(100,100),(500,500)<|box_end|>'
    )
    assert texts[1] == (
        '[{"bbox_2d": [0, 0, 999, 999], "label": "nutrition table"}, '
        '{"bbox_2d": [100, 100, 500, 500], "label": "a \\"b\\""}]'
    )
    assert texts[3] == (
        '[{"bbox_2d": [0, 0, 643, 475], "label": "nutrition table"}, '
        '{"bbox_2d": [64, 48, 322, 238], "label": "a \\"b\\""}]'
    )


@each_codec
def test_nothing_to_find(codec: Codec) -> None:
    text = codec.encode(Detections.empty(), (10, 10), (28, 28))
    assert text == {"tokens": "none", "json": "[]"}[codec.form.name]
    assert codec.decode(text, (10, 10), (28, 28), ["table"]) == DecodeResult("ok", Detections.empty())


@each_codec
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the unicode tables load on first use
@given(scene=scenes())
def test_round_trip(codec: Codec, scene) -> None:
    detections, image_hw, input_hw = scene
    text = codec.encode(detections, image_hw, input_hw)
    result = codec.decode(text, image_hw, input_hw, detections.labels)
    assert (result.status, result.reason) == ("ok", "")
    units = codec.space.to_text_units(detections.xyxy, image_hw, input_hw)
    unique = dict.fromkeys((label, *row) for label, row in zip(detections.labels, units.tolist(), strict=True))
    assert list(result.detections.labels) == [label for label, *_ in unique]
    expected = codec.space.to_pixels([row for _, *row in unique], image_hw, input_hw)
    np.testing.assert_array_equal(result.detections.xyxy, expected)
    assert result.detections.scores is None
    check_spans(text, result, codec, image_hw, input_hw)


@each_codec
@pytest.mark.parametrize("label", HOSTILE)
def test_no_label_breaks_the_structure(codec: Codec, label: str) -> None:
    scene = Detections([[1, 2, 30, 40], [5, 6, 70, 80]], [label, "table"])
    text = codec.encode(scene, (100, 100), (100, 100))
    for token in ("<|im_end|>", "<|box_end|>", "<|object_ref_end|>"):
        assert text.count(token) == (2 if codec.form.name == "tokens" and token != "<|im_end|>" else 0)
    known = codec.decode(text, (100, 100), (100, 100), [label, "table"])
    assert (known.status, known.detections.labels) == ("ok", (label, "table"))
    free = codec.decode(text, (100, 100), (100, 100))
    assert (free.status, free.detections.labels) == ("ok", (label.replace("<|", "< |"), "table"))


@each_codec
def test_equal_boxes_of_one_label_are_written_once(codec: Codec) -> None:
    scene = Detections([[10, 10, 50, 50], [10, 10, 50, 50], [10, 10, 50, 50]], ["a", "a", "b"])
    result = codec.decode(codec.encode(scene, (100, 100), (100, 100)), (100, 100), (100, 100))
    assert (result.status, result.detections.labels) == ("ok", ("a", "b"))


def test_spans_of_exact_text() -> None:
    scene = Detections([[10, 20, 30, 40]], ['say "x"'])
    for codec, whole, label in (
        (CODECS[0], None, 'say "x"'),
        (CODECS[1], '{"bbox_2d": [100, 200, 300, 400], "label": "say \\"x\\""}', 'say \\"x\\"'),
    ):
        text = codec.encode(scene, (100, 100), (100, 100))
        (span,) = codec.decode(text, (100, 100), (100, 100)).spans
        assert text[slice(*span.whole)] == (whole or text)
        assert text[slice(*span.label)] == label
        assert [text[a:b] for a, b in span.coordinates] == ["100", "200", "300", "400"]


def test_spans_follow_swapped_corners() -> None:
    text = '[{"bbox_2d": [300, 400, 100, 200], "label": "a"}]'
    result = CODECS[1].decode(text, (100, 100), (100, 100))
    assert [text[a:b] for a, b in result.spans[0].coordinates] == ["100", "200", "300", "400"]
    check_spans(text, result, CODECS[1], (100, 100), (100, 100))


def test_white_space_is_json_too() -> None:
    text = '\n[\n\t{"bbox_2d":[1,2,3,4],"label":"a"} ,\n\t{"bbox_2d" : [ 5, 6, 7, 8 ] , "label" : "b"}\n]\n'
    result = CODECS[1].decode(text, (1000, 1000), (28, 28))
    assert (result.status, result.detections.xyxy.tolist()) == ("ok", [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert [json.loads(text[slice(*span.whole)])["label"] for span in result.spans] == ["a", "b"]


@each_codec
def test_a_codec_is_a_value_that_can_be_saved(codec: Codec) -> None:
    assert Codec.from_description(json.loads(json.dumps(codec.describe()))) == codec
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert len({codec, Codec.from_description(codec.describe())}) == 1
    with pytest.raises(AttributeError):
        codec.space = Relative1000()  # type: ignore[misc]


@pytest.mark.parametrize("description", [{}, {"space": "relative_100", "form": "json"}, {"space": "input_pixels"}])
def test_an_unknown_description_is_refused(description: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="coordinate convention has no"):
        Codec.from_description(description)
