"""What models really write: every row is a text, what is to be made of it, and words of the reason."""

from __future__ import annotations

import pytest

from boxtune.grounding.codec import Codec
from boxtune.grounding.json_form import JsonForm
from boxtune.grounding.spaces import Relative1000
from boxtune.grounding.token_form import TokenForm

JSON = Codec(Relative1000(), JsonForm())
TOKENS = Codec(Relative1000(), TokenForm())
SIZE = (1000, 1000)  # so that units of the text are pixels
TWO, ONE = ("table", "figure"), ("table",)

T = ("table", 1, 2, 3, 4)
F = ("figure", 5, 6, 7, 8)
A = '{"bbox_2d": [1, 2, 3, 4], "label": "table"}'
B = '{"bbox_2d": [5, 6, 7, 8], "label": "figure"}'


def ref(label: str) -> str:
    return f"<|object_ref_start|>{label}<|object_ref_end|>"


def box(numbers: str) -> str:
    return f"<|box_start|>{numbers}<|box_end|>"


TA, TB = ref("table") + box("(1,2),(3,4)"), ref("figure") + box("(5,6),(7,8)")

# text, known labels, status, boxes, words of the reason
JSON_ROWS = [
    (f"[{A}, {B}]", TWO, "ok", [T, F], ""),
    (f" [{A},{B}]\n", None, "ok", [T, F], ""),
    ("[]", TWO, "ok", [], ""),
    ("[ ]", TWO, "ok", [], ""),
    # empty answers in other words
    ("none", TWO, "repaired", [], "other words than []"),
    ("None.", TWO, "repaired", [], "other words"),
    ("null", TWO, "repaired", [], "other words"),
    ("No objects", TWO, "repaired", [], "other words"),
    ("There are no such objects in the image.", TWO, "repaired", [], "other words"),
    ("```json\n[]\n```", TWO, "repaired", [], "other words"),
    ("The answer is [].", TWO, "repaired", [], "other words"),
    ("{}", TWO, "repaired", [], "other words"),
    ("[]<|im_end|>", TWO, "repaired", [], "end token removed"),
    # nothing usable
    ("", TWO, "malformed", [], "empty answer"),
    (" \n", TWO, "malformed", [], "empty answer"),
    ("<|im_end|>", TWO, "malformed", [], "empty answer"),
    ("A photo of a product.", TWO, "malformed", [], "no box found"),
    ("[", TWO, "malformed", [], "cut off after 0 boxes"),
    ('[{"bbox_2d": [1, 2, 3', ONE, "malformed", [], "cut off after 0 boxes"),
    ("[{}]", TWO, "malformed", [], "no box found"),
    ('[{"label": "table"}]', TWO, "malformed", [], "label 'table' without a box"),
    ('[{"bbox_2d": [], "label": "table"}]', TWO, "malformed", [], "without a box"),
    ('[{"bbox_2d": null, "label": "table"}]', TWO, "malformed", [], "without a box"),
    ('{"bbox_2d": [10, 20, 30], "label": "table"}', TWO, "malformed", [], "dropped 1 with 3 numbers instead of 4"),
    # around the list
    (f"```json\n[{A}]\n```", TWO, "repaired", [T], "code fence removed"),
    (f"```\n[\n\t{A},\n\t{B}\n]\n```", TWO, "repaired", [T, F], "code fence removed"),
    (f"Sure, here it is: [{A}] I hope it helps!", TWO, "repaired", [T], "text around the answer"),
    (f"[{A}]<|im_end|>", TWO, "repaired", [T], "end token removed"),
    (f"[{A}]<|endoftext|>", TWO, "repaired", [T], "end token removed"),
    (f"[{A}]<|im_end|>\n<|im_start|>user [{B}]", TWO, "repaired", [T], "text after the end token"),
    (A, TWO, "repaired", [T], "punctuation mended"),
    (f'{{"objects": [{A}, {B}]}}', TWO, "repaired", [T, F], "punctuation mended"),
    (f"[{A}]\n[{B}]", TWO, "repaired", [T, F], "punctuation mended"),
    # cut off
    (f"[{A}, {B}, {{", TWO, "repaired", [T, F], "cut off after 2 boxes"),
    (f"[{A}", TWO, "repaired", [T], "cut off after 1 box"),
    (f'[{A}, {{"bbox_2d": [5, 6, 7, 8', TWO, "repaired", [T], "cut off after 1 box"),
    (f'[{A}, {{"bbox_2d": [5, 6, 7, 8], "la', TWO, "repaired", [T], "cut off after 1 box; dropped 1 without a label"),
    (f'[{A}, {{"bbox_2d": [5, 6, 7, 8], "label": "fig', TWO, "repaired", [T], "label not closed"),
    (f'[{A}, {{"bbox_2d": [5, 6, 7, 8], "label": "t', ONE, "repaired", [T, ("table", 5, 6, 7, 8)], "cut off after 2"),
    (f"```json\n[{A}, {B[:9]}", TWO, "repaired", [T], "cut off after 1 box; code fence"),
    # punctuation
    (f"[{A.replace(chr(34), chr(39))}]", TWO, "repaired", [T], "single quotes"),
    ("[{'bbox_2d': [1, 2, 3, 4], 'label': 'cook's table'}]", None, "repaired", [("cook's table", *T[1:])], "single"),
    ('[{"bbox_2d": [1, 2, 3, 4], "label": "a "big" one"}]', None, "repaired", [('a "big" one', *T[1:])], "mended"),
    (f"[{A} {B}]", TWO, "repaired", [T, F], "punctuation mended"),
    (f"[{A}, {B},]", TWO, "repaired", [T, F], "punctuation mended"),
    ('[{"bbox_2d": [1, 2, 3, 4] "label": "table"}]', TWO, "repaired", [T], "punctuation mended"),
    ('[{"bbox_2d": [1 2 3 4], "label": "table"}]', TWO, "repaired", [T], "punctuation mended"),
    ('[{"bbox_2d": [1, 2, 3, 4, "label": "table"}]', TWO, "repaired", [T], "a bracket missing"),
    ('[{"bbox_2d": 1, 2, 3, 4], "label": "table"}]', TWO, "repaired", [T], "a bracket missing"),
    (f"[{A[:-1]}, {B}]", TWO, "repaired", [T, F], "punctuation mended"),
    (f"[{A}, {B[:-1]}]", TWO, "repaired", [T, F], "a bracket missing"),
    (f"[{A}, {B[1:]}]", TWO, "repaired", [T, F], "punctuation mended"),
    ('[{bbox_2d: [1, 2, 3, 4], label: "table"}]', TWO, "repaired", [T], "punctuation mended"),
    ('[{"bbox_2d": [1, 2, 3, 4], "label": table}]', TWO, "repaired", [T], "label without quotes"),
    ('[{"bbox_2d": (1, 2, 3, 4), "label": "table"}]', TWO, "repaired", [T], "punctuation mended"),
    # keys
    ('[{"bbox": [1, 2, 3, 4], "label": "table"}]', TWO, "repaired", [T], "key 'bbox' read as 'bbox_2d'"),
    ('[{"box": [1, 2, 3, 4], "class": "table"}]', TWO, "repaired", [T], "key 'class' read as 'label'"),
    ('[{"box_2d": [1, 2, 3, 4], "category": "table"}]', TWO, "repaired", [T], "key 'category'"),
    ('[{"bbox_2d": [1, 2, 3, 4], "text_content": "table"}]', TWO, "repaired", [T], "key 'text_content'"),
    ('[{"label": "table", "bbox_2d": [1, 2, 3, 4]}]', TWO, "repaired", [T], "keys in another order"),
    ('[{"id": 7, "bbox_2d": [1, 2, 3, 4], "label": "table", "score": 0.9}]', TWO, "repaired", [T], "mended"),
    # labels
    ('[{"bbox_2d": [1, 2, 3, 4]}]', ONE, "repaired", [T], "missing label taken as 'table' in 1"),
    ('[{"bbox_2d": [1, 2, 3, 4]}]', TWO, "malformed", [], "dropped 1 without a label"),
    ('[{"bbox_2d": [1, 2, 3, 4]}]', None, "malformed", [], "dropped 1 without a label"),
    (f'[{A}, {{"bbox_2d": [5, 6, 7, 8], "label": null}}]', TWO, "repaired", [T], "dropped 1 without a label"),
    ("[1, 2, 3, 4]", ONE, "repaired", [T], "missing label"),
    (
        "[[1, 2, 3, 4], [5, 6, 7, 8]]",
        ONE,
        "repaired",
        [T, ("table", 5, 6, 7, 8)],
        "missing label taken as 'table' in 2",
    ),
    (f"[{A.replace('table', ' TABLE ')}]", TWO, "repaired", [T], "label ' TABLE ' read as 'table'"),
    (f"[{A.replace('table', 'Tables')}]", TWO, "repaired", [T], "label 'Tables' read as 'table'"),
    (
        f"[{A.replace('table', 'nutrition-table')}]",
        ("Nutrition Table",),
        "repaired",
        [("Nutrition Table", *T[1:])],
        "as",
    ),
    (f"[{A.replace('table', 'boxes')}]", ("box",), "repaired", [("box", *T[1:])], "read as 'box'"),
    (f"[{A.replace('table', 'chair')}, {B}]", TWO, "repaired", [F], "dropped 1 with unknown label 'chair'"),
    (f"[{A.replace('table', 'chair')}]", ONE, "malformed", [], "unknown label 'chair'"),
    (f"[{A.replace('table', 'TABLE')}]", ("table", "Table"), "malformed", [], "unknown label 'TABLE'"),
    (f"[{A.replace('table', 'chair')}]", None, "ok", [("chair", *T[1:])], ""),
    # numbers
    ('[{"bbox_2d": [3, 4, 1, 2], "label": "table"}]', TWO, "repaired", [T], "corners swapped in 1"),
    ('[{"bbox_2d": [3, 2, 1, 4], "label": "table"}]', TWO, "repaired", [T], "corners swapped in 1"),
    ('[{"bbox_2d": [1.5, 2, 3.0, 4], "label": "table"}]', TWO, "repaired", [("table", 1.5, 2, 3, 4)], "not whole"),
    ('[{"bbox_2d": ["1", "2", "3", "4"], "label": "table"}]', TWO, "repaired", [T], "numbers in quotes"),
    ('[{"bbox_2d": "1, 2, 3, 4", "label": "table"}]', TWO, "repaired", [T], "a bracket missing"),
    (
        '[{"bbox_2d": [1, 2, 3, 1000], "label": "table"}]',
        TWO,
        "repaired",
        [("table", 1, 2, 3, 999)],
        "out of range in 1",
    ),
    ('[{"bbox_2d": [-9, 2, 3, 4], "label": "table"}]', TWO, "repaired", [("table", 0, 2, 3, 4)], "out of range in 1"),
    ('[{"bbox_2d": [1, 2, 1e999, 4], "label": "table"}]', TWO, "repaired", [("table", 1, 2, 999, 4)], "out of range"),
    (
        f'[{{"bbox_2d": [1, 2, {"9" * 5000}, 4], "label": "table"}}]',
        TWO,
        "repaired",
        [("table", 1, 2, 999, 4)],
        "out of",
    ),
    ('[{"bbox_2d": [1200, 2, 1300, 4], "label": "table"}]', TWO, "malformed", [], "dropped 1 without area"),
    (f'[{A}, {{"bbox_2d": [5, 5, 5, 9], "label": "table"}}]', TWO, "repaired", [T], "dropped 1 without area"),
    ('[{"bbox_2d": [[1, 2], [3, 4]], "label": "table"}]', TWO, "repaired", [T], "punctuation mended"),
    (
        '[{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "label": "table"}]',
        TWO,
        "repaired",
        [T, ("table", 5, 6, 7, 8)],
        "mended",
    ),
    (f'[{{"bbox_2d": [1,2,3,4,5,6,7,8], "label": "table"}}, {B}]', TWO, "repaired", [F], "1 with 8 numbers"),
    ('[{"bbox_2d": [[1,2],[3,2],[3,4],[1,4]], "label": "table"}]', TWO, "malformed", [], "1 with 8 numbers"),
    (f'[{{"bbox_2d": [1, 2, 3], "label": "table"}}, {B}]', TWO, "repaired", [F], "1 with 3 numbers"),
    # repetition
    (f"[{A}, {A}]", TWO, "repaired", [T], "dropped 1 repeated"),
    (f"[{A}, {', '.join([B] * 300)}, {B[:20]}", TWO, "repaired", [T, F], "cut off after 2 boxes; dropped 299 repeated"),
    # the other form
    (TA, TWO, "repaired", [T], "written in the form 'tokens'"),
    (f"{TB}[{A}]", TWO, "repaired", [F, T], "two text forms mixed"),
]

TOKEN_ROWS = [
    (TA, TWO, "ok", [T], ""),
    (TA + TB + "\n", TWO, "ok", [T, F], ""),
    ("none", TWO, "ok", [], ""),
    ("[]", TWO, "repaired", [], "other words than none"),
    ("None", TWO, "repaired", [], "other words than none"),
    ("none<|im_end|>", TWO, "repaired", [], "end token removed"),
    ("No instances found.", TWO, "repaired", [], "other words"),
    ("", TWO, "malformed", [], "empty answer"),
    ("<|box_start|>", TWO, "malformed", [], "cut off after 0 boxes"),
    ("<|object_ref_start|>", TWO, "malformed", [], "cut off after 0 boxes"),
    (ref("table"), TWO, "malformed", [], "cut off after 0 boxes"),
    ("((((", TWO, "malformed", [], "no box found"),
    (TA + "<|im_end|>", TWO, "repaired", [T], "end token removed"),
    (f"Here: {TA}.", TWO, "repaired", [T], "text around the answer"),
    (f"{TA}, {TB}", TWO, "repaired", [T, F], "punctuation mended"),
    (TA + TB[:-12], TWO, "repaired", [T], "cut off after 1 box"),
    (TA + TB[:-11], TWO, "repaired", [T, F], "cut off after 2 boxes"),
    (TA + TB[:25], TWO, "repaired", [T], "cut off after 1 box"),
    (TA + ref("figure") + "<|box_start|>(5,6),", TWO, "repaired", [T], "cut off after 1 box"),
    (ref("table") + box("(1,2),(3,4)") + box("(5,6),(7,8)"), TWO, "repaired", [T, ("table", 5, 6, 7, 8)], "mended"),
    (ref("table") + box("(1, 2), (3, 4)"), TWO, "repaired", [T], "punctuation mended"),
    (ref("table") + box("(1,2)(3,4)"), TWO, "repaired", [T], "punctuation mended"),
    (ref("table") + box("(1,2,3,4)"), TWO, "repaired", [T], "punctuation mended"),
    (ref("table") + box("1,2,3,4"), TWO, "repaired", [T], "a bracket missing"),
    (ref("table") + box("(1,2),(3,4"), TWO, "repaired", [T], "a bracket missing"),
    (ref("table") + box("(1,2,(3,4)"), TWO, "repaired", [T], "a bracket missing"),
    (ref("table") + box("(3,4),(1,2)"), TWO, "repaired", [T], "corners swapped in 1"),
    (ref("table") + box("(1,2),(3,1000)"), TWO, "repaired", [("table", 1, 2, 3, 999)], "out of range in 1"),
    (ref("table") + box("(5,5),(5,5)"), TWO, "malformed", [], "dropped 1 without area"),
    (ref("table") + box("(1,2),(3)") + TB, TWO, "repaired", [F], "with 2 numbers"),
    (ref("table") + "(1,2),(3,4)", TWO, "repaired", [T], "a special token missing"),
    ("<|object_ref_start|>table" + box("(1,2),(3,4)"), TWO, "repaired", [T], "a special token missing"),
    ("table<|object_ref_end|>" + box("(1,2),(3,4)"), TWO, "repaired", [T], "label taken from the text before"),
    ("<|quad_start|>(1,2),(3,2),(3,4),(1,4)<|quad_end|>", ONE, "malformed", [], "1 with 8 numbers"),
    (box("(1,2),(3,4)"), ONE, "repaired", [T], "missing label taken as 'table' in 1"),
    (box("(1,2),(3,4)"), TWO, "malformed", [], "dropped 1 without a label"),
    (ref("Tables") + box("(1,2),(3,4)"), TWO, "repaired", [T], "label 'Tables' read as 'table'"),
    (ref("chair") + box("(1,2),(3,4)") + TB, TWO, "repaired", [F], "dropped 1 with unknown label 'chair'"),
    ("table(1,2),(3,4)", TWO, "repaired", [T], "label taken from the text before the box"),
    ("table(1,2),(3,4)figure(5,6),(7,8)", TWO, "repaired", [T, F], "label taken"),
    ("table(1,2),(3,4)(5,6),(7,8)", None, "repaired", [T, ("table", 5, 6, 7, 8)], "label taken"),
    ("Boxes:\ntable: (1,2),(3,4)\n- figure (5,6),(7,8)", TWO, "repaired", [T, F], "label taken"),
    ("table (large)(1,2),(3,4)", None, "repaired", [("table (large)", *T[1:])], "label taken"),
    ("It stands at (1,2),(3,4)", ONE, "repaired", [T], "missing label taken as 'table'"),
    ("It stands at (1,2),(3,4)", TWO, "malformed", [], "dropped 1 without a label"),
    (TA + TA + TA, TWO, "repaired", [T], "dropped 2 repeated"),
    (f"[{A}]", TWO, "repaired", [T], "written in the form 'json'"),
    (f"[{A}]{TB}", TWO, "repaired", [T, F], "two text forms mixed"),
]

ROWS = [(JSON, *row) for row in JSON_ROWS] + [(TOKENS, *row) for row in TOKEN_ROWS]


@pytest.mark.parametrize(("codec", "text", "labels", "status", "boxes", "words"), ROWS)
def test_bad_text(codec: Codec, text: str, labels, status: str, boxes: list, words: str) -> None:
    result = codec.decode(text, SIZE, SIZE, labels)
    detections = result.detections
    found = [(label, *box) for label, box in zip(detections.labels, detections.xyxy.tolist(), strict=True)]
    assert (result.status, found) == (status, boxes), result.reason
    assert words in result.reason
    assert (result.reason == "") == (status == "ok")
    assert "\n" not in result.reason
    for label, span in zip(detections.labels, result.spans, strict=True):
        start, end = span.whole
        assert all(start <= a <= b <= end for a, b in (span.label, *span.coordinates))
        assert all(a < b and float(text[a:b]) is not None for a, b in span.coordinates)
        assert span.label[0] == span.label[1] or label[:3].lower() in text[slice(*span.label)].lower()


def test_the_whole_element_is_spanned_in_mended_text_too() -> None:
    for codec, text, wholes in (
        (JSON, f"```json\n[{A}, {B}", [A, B]),
        (JSON, f"{TB}[{A}]", [TB, A]),
        (TOKENS, f"Here: {TA}, {TB}!", [TA, TB]),
        (TOKENS, "table(1,2),(3,4), figure(5,6),(7,8)", ["table(1,2),(3,4)", "figure(5,6),(7,8)"]),
        (JSON, '[{"label": "table", "bbox_2d": [1, 2, 3, 4], "score": 1}]', None),
    ):
        spans = codec.decode(text, SIZE, SIZE, TWO).spans
        assert [text[slice(*span.whole)] for span in spans] == (wholes or [text[1:-1]])
