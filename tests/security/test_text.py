"""Labels, prompts and answers with the tokens that give a conversation its structure, and text made to be slow."""

from __future__ import annotations

import json
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxtune.collators.encode import SampleEncoder
from boxtune.data.conversation import ConversationStyle
from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.errors import ConfigError
from boxtune.grounding.codec import Codec
from boxtune.grounding.json_form import JsonForm
from boxtune.grounding.spaces import InputPixels, Relative1000
from boxtune.grounding.token_form import TokenForm
from boxtune.models.families import FAMILIES
from boxtune.models.tokenizer import SPECIAL_TOKENS

IMAGE, INPUT = (480, 640), (476, 644)
CODECS = [Codec(Relative1000(), TokenForm()), Codec(InputPixels(), JsonForm())]
by_form = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.form.name)
BOX = [[10, 20, 300, 400]]


def encoder_of(processor, model_type: str, **options) -> SampleEncoder:
    return SampleEncoder(processor, ConversationStyle(FAMILIES[model_type].codec, **options))


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_vl"])
def test_a_label_brings_no_special_token(tiny, model_type, token):
    """Neither in the prompt nor in the answer: there are as many of each as with an honest label."""
    processor = tiny(model_type)[1]
    counts = []
    for label in (f"a{token}b", "honest"):
        encoder = encoder_of(processor, model_type, labels=(label,))
        sample = Sample("1", Image.new("RGB", (64, 64)), Detections([[4, 4, 60, 60]], [label]), "")
        ids = encoder.sample(sample).input_ids
        special = torch.tensor(processor.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
        counts.append((ids[:, None] == special).sum(0).tolist())
    assert counts[0] == counts[1]


@by_form
@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_a_label_of_tokens_comes_back_as_it_was(codec, token):
    labels = [f"{token}", f"a{token}{token}b", f"<{token}"]
    truth = Detections(BOX * 3, labels)
    result = codec.decode(codec.encode(truth, IMAGE, INPUT), IMAGE, INPUT, labels)
    assert (result.status, list(result.detections.labels)) == ("ok", labels)


def test_an_image_place_in_a_prompt_is_refused_and_in_a_label_is_text(tiny):
    sample = Sample("1", Image.new("RGB", (64, 64)), Detections.empty(), "")
    processor = tiny("qwen2_5_vl")[1]
    for place in ("<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>"):
        for options in ({"prompt": f"{place} {{labels}}"}, {"system": place}):
            with pytest.raises(ConfigError, match="image places for 1 images"):
                encoder_of(processor, "qwen2_5_vl", labels=("a",), **options).sample(sample)
        assert encoder_of(processor, "qwen2_5_vl", labels=(place,)).sample(sample).vision_mask.any()


@by_form
@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_tokens_in_an_answer_are_text_or_its_end(codec, token):
    whole = codec.encode(Detections(BOX, ["a"]), IMAGE, INPUT)
    for text in (token + whole, whole + token, whole[:9] + token + whole[9:], token * 1000, whole + token + whole):
        result = codec.decode(text, IMAGE, INPUT, ["a"])
        assert set(result.detections.labels) <= {"a"}
        assert len(result.detections) <= 2


MARKUP = st.sampled_from(
    [*SPECIAL_TOKENS, "<|", "|>", "<", "|", ">", '"', "\\", "\n", "[", "]", "{", "}", ",", ":", "none", "[]", "label",
     "\u202e", "\x00", "\x1b[31m", "</script>", "{{7*7}}", "\U0001f600", "é"]
)  # fmt: skip
LABELS = st.lists(MARKUP | st.text(max_size=3), min_size=1, max_size=6).map("".join)


@by_form
@settings(max_examples=200)
@given(labels=st.lists(LABELS, min_size=1, max_size=4, unique=True))
def test_any_label_goes_through_text_and_back(codec, labels):
    labels = [label for label in labels if not any("\ud800" <= sign <= "\udfff" for sign in label)] or ["a"]
    boxes = [[10 * n, 20, 10 * n + 200, 300] for n in range(len(labels))]
    text = codec.encode(Detections(boxes, labels), IMAGE, INPUT)
    assert not any(token in text.replace("<|object_ref_", "").replace("<|box_", "") for token in SPECIAL_TOKENS)
    result = codec.decode(text, IMAGE, INPUT, labels)
    assert len(result.detections) == len(labels) or len({label.replace("<|", "< |") for label in labels}) < len(labels)
    assert set(result.detections.labels) <= set(labels)


PIECES = st.lists(
    st.sampled_from(["[", "]", "{", "}", '"', "'", "\\", " ", "\n", "(", ")", "<", "<|", "|>", "9", "1e", ".", ",", ":",
                     "bbox_2d", "label", "bbox", "no ", "objects ", "```", "a", "-", "label:", "[1,2,3,4]", "x"]),
    min_size=1, max_size=5,
).map("".join)  # fmt: skip


@by_form
@settings(max_examples=60)
@given(unit=PIECES, before=PIECES, after=PIECES)
def test_no_repeated_answer_takes_long(codec, unit, before, after):
    """Twice as much text must not take four times as long: 300 000 signs take half a second, or else hours."""
    text = before + unit * (300_000 // len(unit)) + after
    begin = time.thread_time()
    codec.decode(text, IMAGE, INPUT, ["label", "a"])
    assert time.thread_time() - begin < 3


@by_form
def test_reopening_a_long_answer_takes_no_longer(codec):
    text = codec.encode(Detections([[n, n, n + 50, n + 50] for n in range(400)], ["a"] * 400), IMAGE, INPUT)
    begin = time.thread_time()
    for piece in ("]", '"}]', "}", ""):
        codec.form.reopened(text[:-1], piece)
        codec.form.reopened("[" * 100_000, piece)
        codec.form.reopened('[{"bbox_2d": [' * 10_000, piece)
    assert time.thread_time() - begin < 3


def test_results_hold_labels_as_json_has_them(tmp_path, cli):
    """predictions.json names what the user asked for; JSON escapes it, and there is no other table to break out of."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    labels = '=cmd|calc!A1,"quoted",<script>alert(1)</script>,<|im_end|>,\u202eabc'
    code, out, err = cli(
        "predict", "--model", "tiny:qwen2_vl", "--image", tmp_path / "a.png", "--labels", labels, "--output-dir",
        tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert isinstance(json.loads((tmp_path / "out" / "predictions.json").read_text()), list)
    assert "\u202e" not in out + err
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".jpg"}
