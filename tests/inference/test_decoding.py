"""Greedy answers, the log-probability of each token, and the score of each box."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from boxtune.collators.batch import pad
from boxtune.grounding.elements import BoxSpan
from boxtune.inference.decoding import Answer, text_with_spans
from boxtune.models.families import FAMILIES, family
from boxtune.models.tokenizer import SPECIAL_TOKENS, train_tokenizer
from collators.conversations import encoder_of
from inference.written import written

each_family = pytest.mark.parametrize("model_type", FAMILIES)
# merges across the bytes of characters, as large vocabularies have them
MERGED = train_tokenizer(["日本語のラベル 表 表示 😀😃 Größe ไทย"] * 30, vocab_size=420)
PLAIN = train_tokenizer(['[{"bbox_2d": [1, 2], "label": "table"}]'] * 30, vocab_size=350)


def assert_spans_tile_the_text(tokens, tokenizer):
    text, spans = text_with_spans(tokens, tokenizer)
    assert text == tokenizer.decode(tokens, skip_special_tokens=False)
    assert len(spans) == len(tokens)
    borders = sorted(set(spans))
    assert "".join(text[start:end] for start, end in borders) == text
    assert list(spans) == sorted(spans)
    assert all(after[0] == before[1] for before, after in itertools.pairwise(borders))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
@example("日本語のラベル😀😃ไทย")
@example("a�b")
@example("�")
def test_spans_of_any_text(text):
    for tokenizer in (PLAIN, MERGED):
        assert_spans_tile_the_text(tokenizer.encode(text, add_special_tokens=False), tokenizer)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, len(MERGED) - 1), max_size=25))
def test_spans_of_any_tokens(tokens):
    """A model may write half a character, or its bytes in a wrong order."""
    assert_spans_tile_the_text(tokens, MERGED)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_spans_with_qwens_tokenizer(shared_tokenizer, text):
    assert_spans_tile_the_text(shared_tokenizer.encode(text), shared_tokenizer)


def test_span_of_a_plain_token_is_its_own_text():
    words = '[{"bbox_2d": [10, 20, 3, 4]}]' + "".join(SPECIAL_TOKENS[3:7])
    tokens = PLAIN.encode(words, add_special_tokens=False)
    text, spans = text_with_spans(tokens, PLAIN)
    assert [text[start:end] for start, end in spans] == [PLAIN.decode([token]) for token in tokens]


def test_every_byte_of_a_character_has_its_range():
    tokens = PLAIN.encode("a😀b", add_special_tokens=False)
    assert text_with_spans(tokens, PLAIN) == ("a😀b", ((0, 1), *[(1, 2)] * 4, (2, 3)))


def test_no_tokens():
    assert text_with_spans([], PLAIN) == ("", ())


@pytest.mark.parametrize(
    ("text", "whole", "probabilities", "expected"),
    [
        ("<box>", (0, 5), [0.5, 0.25, 0.8, 1, 1], 0.5 * (0.25 * 0.8) ** (1 / 4)),
        ("<a><b>", (3, 6), [0.1, 0.1, 0.1, 0.5, 0.2, 0.8], 0.1 * 0.1 * 0.5 * (0.2 * 0.8) ** (1 / 2)),
        ("[{a}, {b}]", (6, 9), [0.1, 0.1, 0.1, 0.1, 0.9, 0.8, 0.5, 0.2, 0.8, 0.1], 0.9 * 0.8 * 0.5 * 0.4),
        ("{", (0, 1), [0.7], 0.7),
        ("{a}", (9, 12), [0.7, 0.7, 0.7], 0.0),
    ],
    ids=["first", "two characters before", "list", "opening only", "beyond"],
)
def test_box_score_is_opening_times_the_geometric_mean_of_the_rest(text, whole, probabilities, expected):
    spans = tuple((place, place + 1) for place in range(len(text)))
    answer = Answer(text, spans, np.log(probabilities), truncated=False)
    assert answer.box_score(BoxSpan(whole, (0, 0), (whole,) * 4)) == pytest.approx(expected)


def questions(tiny, samples, model_type):
    processor = tiny(model_type)[1]
    return [encoder_of(model_type, processor).question(sample.image) for sample in samples]


def answers(tiny, model_type, encoded, model=None, max_new_tokens=12):
    loaded, processor = tiny(model_type)
    form = family(model_type).codec.form
    return written(model or loaded, processor.tokenizer, form, encoded, max_new_tokens=max_new_tokens)


def assert_same(first: Answer, second: Answer):
    assert (first.text, first.char_spans, first.truncated) == (second.text, second.char_spans, second.truncated)
    assert np.allclose(first.log_probs, second.log_probs, rtol=0, atol=1e-4)


@each_family
def test_a_batch_answers_as_one_by_one(tiny, samples, model_type):
    encoded = questions(tiny, samples, model_type)
    assert len({len(e) for e in encoded}) > 2  # so that rows are really padded
    together = answers(tiny, model_type, encoded)
    for sample, answer in zip(encoded, together, strict=True):
        assert_same(answer, answers(tiny, model_type, [sample])[0])


@each_family
def test_log_probs_are_those_of_a_forward_pass(tiny, samples, model_type):
    model, processor = tiny(model_type)
    encoded = questions(tiny, samples, model_type)
    for sample, answer in zip(encoded, answers(tiny, model_type, encoded), strict=True):
        inputs, _ = pad([sample], [sample.input_ids], 0)
        prompt = inputs["input_ids"]
        greedy = []
        for _ in answer.char_spans:
            inputs["input_ids"] = torch.cat([prompt, torch.tensor([[t for t, _ in greedy]], dtype=torch.long)], dim=1)
            new = inputs["input_ids"].shape[1]
            for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
                old = inputs[name]
                inputs[name] = torch.cat([old, torch.full((1, new - old.shape[1]), fill, dtype=old.dtype)], dim=1)
            with torch.no_grad():
                row = model(**inputs, use_cache=False).logits[0, -1].log_softmax(-1)
            greedy.append((int(row.argmax()), float(row.max())))
        text, _ = text_with_spans([t for t, _ in greedy], processor.tokenizer)
        assert answer.text == text
        assert np.allclose(answer.log_probs, [p for _, p in greedy], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "settings_of_the_folder",
    [{"repetition_penalty": 1.5}, {"do_sample": True, "temperature": 2.0, "top_k": 5}, {"no_repeat_ngram_size": 1}],
    ids=["repetition", "sampling", "ngrams"],
)
def test_habits_of_the_models_folder_change_nothing(tiny, samples, settings_of_the_folder):
    """Qwen2.5-VL ships `repetition_penalty`: it would bend coordinates, which repeat digits, and their scores."""
    encoded = questions(tiny, samples[:2], "qwen2_5_vl")
    model = copy.deepcopy(tiny("qwen2_5_vl")[0])
    expected = answers(tiny, "qwen2_5_vl", encoded)
    model.generation_config.update(**settings_of_the_folder)
    for first, second in zip(expected, answers(tiny, "qwen2_5_vl", encoded, model), strict=True):
        assert_same(first, second)


def test_stop_and_padding_are_no_part_of_an_answer(tiny, samples):
    """The answer ends where the model says so; rows that end earlier are filled up, and the filling is cut again."""
    model = tiny("qwen2_vl")[0]
    encoded = questions(tiny, samples, "qwen2_vl")
    free = answers(tiny, "qwen2_vl", encoded)
    inputs, _ = pad(encoded[:1], [encoded[0].input_ids], 0)
    with torch.no_grad():
        first_token = int(model(**inputs, use_cache=False).logits[0, -1].argmax())
    stopping = copy.deepcopy(model)
    stopping.generation_config.eos_token_id = [first_token]
    stopped = answers(tiny, "qwen2_vl", encoded, stopping)
    assert (stopped[0].text, stopped[0].char_spans, len(stopped[0].log_probs)) == ("", (), 0)
    assert any(answer.text for answer in stopped)
    for before, after in zip(free, stopped, strict=True):
        length = len(after.log_probs)
        assert before.truncated
        assert after.truncated == (length == 12)
        assert len(after.char_spans) == length
        assert before.text.startswith(after.text.rstrip("�"))
        assert np.allclose(before.log_probs[:length], after.log_probs, rtol=0, atol=1e-4)
