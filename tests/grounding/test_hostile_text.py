"""No text raises an error, and none takes long."""

from __future__ import annotations

import random
import time

import pytest

from boxtune.detections import Detections
from boxtune.grounding.codec import Codec
from boxtune.grounding.json_form import JsonForm
from boxtune.grounding.spaces import InputPixels, Relative1000
from boxtune.grounding.token_form import TokenForm

CODECS = [Codec(Relative1000(), TokenForm()), Codec(InputPixels(), JsonForm())]
LABELS = ["table", "figure", "a"]
PIECES = [
    *"[]{}(),:\"'\\ \n<|>-+.0159eEa",
    *("<|box_start|>", "<|box_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|quad_start|>", "<|im_end|>"),
    *('"bbox_2d": ', '"label": ', "'name': ", "bbox", "label", "table", '"table"', "none", "null", "```json", "1e999"),
    *("[1, 2, 30, 40]", "(5,6),(70,80)", '{"bbox_2d": [1, 2, 30, 40], "label": "a"}', "é", "\x00", "\ud800", "\u2028"),
]
IMAGE, INPUT = (480, 640), (476, 644)


def random_text(rng: random.Random) -> str:
    return "".join(rng.choices(PIECES, k=rng.randrange(14)))


def mutated_text(rng: random.Random, answers: list[str]) -> str:
    text = rng.choice(answers)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text) + 1)
        until = min(len(text), at + rng.randrange(6))
        text = text[:at] + rng.choice([*PIECES, "", ""]) + text[until:]
    return text[: rng.randrange(len(text) + 1)] if rng.random() < 0.2 else text


def test_a_hundred_thousand_texts_raise_nothing() -> None:
    rng = random.Random(0)
    scene = Detections([[1, 2, 300, 400], [10, 20, 30, 40]], ["table", 'a "b"'])
    answers = [codec.encode(scene.select(range(n)), IMAGE, INPUT) for codec in CODECS for n in range(3)]
    statuses = set()
    for n in range(100_000):
        text = random_text(rng) if n % 2 else mutated_text(rng, answers)
        codec = CODECS[n // 2 % 2]
        result = codec.decode(text, IMAGE, INPUT, LABELS if n % 3 else None)
        statuses.add(result.status)
        assert len(result.spans) == len(result.detections)
        assert (result.status == "ok") == (result.reason == "")
        for span in result.spans:
            start, end = span.whole
            assert 0 <= start <= span.label[0] <= span.label[1] <= end <= len(text), text
            for a, b in span.coordinates:
                assert start <= a < b <= end, text
                float(text[a:b])
        if result.status == "malformed":
            assert len(result.detections) == 0
    assert statuses == {"ok", "repaired", "malformed"}


MILLION = 1_000_000
UNITS = [
    *("[", "(", "{", "]", "9", " ", '"', "'", "\\", "<", "`", "a", "\n"),
    *("[]", "[ ", "[[1,", "(1,2),", "9 ", "1e", "'a", '\\"', "<|", "a:", "label:", "label:'", 'label:"', "label= "),
    *("bbox:[1,2,3,4],", "[1,2,3,4]", "a(1,2),(3,4)", '{"bbox_2d": [', '{"bbox_2d": [1, 2, 3, 4], "label": "'),
    *(
        "<|object_ref_start|>",
        "<|object_ref_start|>a<|object_ref_end|>",
        "<|box_start|>",
        "<|im_start|>",
        "no objects ",
    ),
]
HOSTILE = [unit * (MILLION // len(unit)) for unit in UNITS] + [
    '[{"bbox_2d": [1, 2, 3, ' + "9" * MILLION + '], "label": "a"}]',
    '[{"bbox_2d": [1, 2, 3, 4], "label": "' + "\\" * MILLION,
    '[{"bbox_2d": [1, 2, 3, 4], "label": "' + "a" * MILLION + '"}]',
    '[{"bbox_2d": [1, 2, 3, 4], "label": ' + " " * MILLION,
    "<|object_ref_start|>" + "<" * MILLION,
    "[" + ", ".join(['{"bbox_2d": [1, 2, 3, 4], "label": "a"}'] * 25_000) + "]",
    "[" + ", ".join(f'{{"bbox_2d": [1, 2, 3, 4], "label": "{n}"}}' for n in range(25_000)),
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.form.name)
@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: repr(t[:25]))
def test_a_million_characters_take_less_than_a_second(codec: Codec, text: str) -> None:
    begin = time.thread_time()
    result = codec.decode(text, IMAGE, INPUT, LABELS)
    assert time.thread_time() - begin < 3
    assert len(result.reason) < 1000


def test_the_rest_of_an_endless_text_is_not_read_and_that_is_said() -> None:
    text = "Well: " + CODECS[1].encode(Detections([[1, 2, 300, 400]], ["a"]), IMAGE, INPUT) + " and" * 100_000
    result = CODECS[1].decode(text, IMAGE, INPUT)
    assert (result.status, len(result.detections)) == ("repaired", 1)
    assert "longer than 100000 characters" in result.reason
