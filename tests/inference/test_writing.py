"""Answers from slots: those of transformers' `generate`, whatever stands beside them and whenever they began."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from boxtune.collators.batch import pad
from boxtune.errors import DataError
from boxtune.inference.decoding import text_with_spans
from boxtune.inference.detector import Detector, own_detector
from boxtune.inference.language_pass import read_questions
from boxtune.models.attention import choose_for_questions, use_attention
from boxtune.models.compile import compile_blocks, release_blocks
from boxtune.models.families import FAMILIES, family
from collators.conversations import LABELS, encoder_of
from inference.written import written

each_family = pytest.mark.parametrize("model_type", FAMILIES)
LENGTH = 14


def questions(tiny, samples, model_type):
    encoder = encoder_of(model_type, tiny(model_type)[1])
    return [encoder.question(sample.image) for sample in samples]


def by_generate(model, tokenizer, encoded, max_new_tokens=LENGTH):
    """Texts and log-probabilities of greedy answers, from transformers alone."""
    inputs, _ = pad(encoded, [e.input_ids for e in encoded], tokenizer.pad_token_id, side="left")
    out = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        repetition_penalty=1.0,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    log_probs = torch.stack([logits.log_softmax(-1).amax(-1) for logits in out.logits], dim=1)
    stops = {tokenizer.eos_token_id, *np.atleast_1d(model.generation_config.eos_token_id)}
    answers = []
    for row, found in zip(out.sequences[:, inputs["input_ids"].shape[1] :].tolist(), log_probs, strict=True):
        length = next((i for i, token in enumerate(row) if token in stops), len(row))
        answers.append((text_with_spans(row[:length], tokenizer)[0], found[:length].numpy()))
    return answers


def assert_same(answers, expected):
    assert len(answers) == len(expected)
    for answer, (text, log_probs) in zip(answers, expected, strict=True):
        assert answer.text == text
        assert np.allclose(answer.log_probs, log_probs, rtol=0, atol=1e-4)


def answers_of(model, model_type, processor, encoded, **options):
    form = family(model_type).codec.form
    return written(model, processor.tokenizer, form, encoded, **{"max_new_tokens": LENGTH, **options})


@pytest.mark.parity
@each_family
@pytest.mark.parametrize("num_slots", [1, 2, 64])
def test_answers_are_those_of_generate(tiny, samples, model_type, num_slots):
    """With fewer slots than questions too, which then begin at different times."""
    model, processor = tiny(model_type)
    encoded = questions(tiny, samples, model_type) * 2
    expected = by_generate(model, processor.tokenizer, encoded)
    assert_same(answers_of(model, model_type, processor, encoded, num_slots=num_slots), expected)


@pytest.mark.parity
@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl"])
def test_a_window_of_the_past(tiny, samples, model_type):
    """Layers that look back so many tokens only, beside others that see everything."""
    model, processor = tiny(model_type)
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    text.use_sliding_window, text.sliding_window = True, 5
    text.layer_types = ["sliding_attention"] + ["full_attention"] * (text.num_hidden_layers - 1)
    torch.manual_seed(1)
    narrow = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    narrow.generation_config = copy.deepcopy(model.generation_config)
    encoded = questions(tiny, samples, model_type)
    expected = by_generate(narrow, processor.tokenizer, encoded)
    assert_same(answers_of(narrow, model_type, processor, encoded, num_slots=2), expected)
    wide = copy.deepcopy(model)
    wide.load_state_dict(narrow.state_dict())
    others = by_generate(wide, processor.tokenizer, encoded)
    assert any(not np.allclose(a[1][:1], b[1][:1], atol=1e-4) for a, b in zip(expected, others, strict=True))


@pytest.mark.parity
@each_family
def test_the_pass_over_questions_is_that_of_the_model(tiny, samples, model_type):
    """Last hidden states, deepstack included, of each question as of the question alone."""
    model, _ = tiny(model_type)
    encoded = questions(tiny, samples, model_type)
    use_attention(model, choose_for_questions(model.device, bf16=False, looks_back=False))
    try:
        with torch.no_grad():
            hidden = read_questions(model, encoded).hidden[0].split([len(sample) for sample in encoded])
    finally:
        model.set_attn_implementation("sdpa")
    for sample, found in zip(encoded, hidden, strict=True):
        inputs, _ = pad([sample], [sample.input_ids], 0)
        with torch.no_grad():
            expected = model.model(**inputs, use_cache=False).last_hidden_state[0]
        assert torch.allclose(found, expected, rtol=0, atol=1e-4)


def test_answers_end_at_different_times(taught, samples):
    """A model that knows its pictures writes answers of different lengths; slots are taken over in between."""
    images = [sample.image for sample in samples] * 3
    detector = taught("qwen2_vl")
    together = list(Detector(detector.loaded, labels=LABELS, batch_size=2, max_new_tokens=120).predict(images))
    alone = list(Detector(detector.loaded, labels=LABELS, batch_size=1, max_new_tokens=120).predict(images))
    assert len({len(one.answer.log_probs) for one in alone}) > 1
    assert [one.text for one in together] == [one.text for one in alone]


def test_an_unreadable_image_comes_after_the_answers_before_it(taught, samples):
    def images():
        yield samples[0].image
        yield samples[1].image
        raise DataError("the third is damaged")

    detector = Detector(taught("qwen2_vl").loaded, labels=LABELS, batch_size=8, max_new_tokens=4)
    found = detector.predict(images())
    assert next(found).text
    next(found)
    with pytest.raises(DataError, match="damaged"):
        next(found)


@each_family
def test_compiled_blocks_answer_alike(tiny, samples, model_type):
    model, processor = tiny(model_type)
    encoded = questions(tiny, samples, model_type)
    expected = by_generate(model, processor.tokenizer, encoded)
    compile_blocks(model, backend="eager")
    try:
        assert_same(answers_of(model, model_type, processor, encoded, num_slots=2), expected)
    finally:
        release_blocks(model)
        torch._dynamo.reset()


def test_blocks_that_cannot_be_compiled_run_as_they_are(tiny, samples):
    def backend(*_):
        raise ValueError("no such processor")

    model, processor = tiny("qwen2_vl")
    encoded = questions(tiny, samples, "qwen2_vl")
    expected = by_generate(model, processor.tokenizer, encoded)
    compile_blocks(model, backend=backend)
    try:
        with pytest.warns(UserWarning, match="Blocks run uncompiled: .*no such processor"):
            assert_same(answers_of(model, "qwen2_vl", processor, encoded), expected)
    finally:
        release_blocks(model)
        torch._dynamo.reset()


def test_memory_is_used_again(taught, samples):
    """Slots of a model that nobody else changes serve the next call, also after one that was left in its middle."""
    detector = own_detector(taught("qwen2_vl").loaded, labels=LABELS, batch_size=2, max_new_tokens=60)
    images = [sample.image for sample in samples]
    first = detector.detect(images)
    (kept,) = detector._spare
    next(detector.predict(images))
    again = detector.detect(images)
    assert detector._spare == [kept]
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one.detections.xyxy, two.detections.xyxy)
        assert np.allclose(one.detections.scores, two.detections.scores)


def test_two_streams_at_once_do_not_meet(taught, samples):
    detector = own_detector(taught("qwen2_vl").loaded, labels=LABELS, batch_size=1, max_new_tokens=60)
    images = [sample.image for sample in samples]
    expected = [one.text for one in detector.predict(images)]
    pairs = list(zip(detector.predict(images), detector.predict(images[::-1]), strict=True))
    assert [one.text for one, _ in pairs] == expected
    assert [two.text for _, two in pairs] == expected[::-1]
