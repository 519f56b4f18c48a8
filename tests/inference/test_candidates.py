"""Boxes after the end of an answer: the answer stays what it was, and the boxes stand in the text behind it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from boxtune.collators.batch import pad
from boxtune.detections import Detections
from boxtune.grounding.json_form import JsonForm
from boxtune.grounding.special_tokens import BOX_END, BOX_START, REF_END, REF_START
from boxtune.grounding.token_form import TokenForm
from boxtune.inference import candidates
from boxtune.inference import detector as detector_module
from boxtune.inference.decoding import Answer
from boxtune.inference.detector import Detector
from boxtune.inference.writing import Written
from boxtune.models.families import FAMILIES
from collators.conversations import LABELS
from inference.written import written

each_family = pytest.mark.parametrize("model_type", FAMILIES)
BOX = f"{REF_START}a{REF_END}{BOX_START}(1,2),(3,4){BOX_END}"
OPENING = ', {"bbox_2d": ['
OBJECT = '{"bbox_2d": [1, 2, 3, 4], "label": "a]"}'


@pytest.mark.parametrize(
    ("form", "text", "piece", "expected"),
    [
        (TokenForm(), BOX, "", (BOX, REF_START)),
        (TokenForm(), "", "none", ("none", REF_START)),
        (TokenForm(), "", "no", ("none", REF_START)),
        (TokenForm(), "", "", None),  # a model that says nothing at all has not answered
        (TokenForm(), "none", "", ("none", REF_START)),
        (TokenForm(), BOX[:-1], "", None),
        (TokenForm(), BOX, "none", None),
        (JsonForm(), "[" + OBJECT, "]", (f"[{OBJECT}]", OPENING)),
        (JsonForm(), "[" + OBJECT[:-2], '"}]', (f"[{OBJECT}]", '"}' + OPENING)),
        (JsonForm(), "[" + OBJECT[:-2], '"}', (f"[{OBJECT}]", '"}' + OPENING)),
        (JsonForm(), "", "[]", ("[]", "[" + OPENING[2:])),
        (JsonForm(), "[", "]", ("[]", OPENING[2:])),
        (JsonForm(), '[{"bbox_2d": [1, 2, 3, 4', "],", None),  # the box's own bracket
        (JsonForm(), '[{"bbox_2d": [1, 2, 3, 4], "label": "a', "]", None),  # a bracket in a label
        (JsonForm(), "I see " + OBJECT, "]", None),
    ],
)
def test_what_ends_an_answer(form, text, piece, expected):
    assert form.may_end(piece) or expected is None
    if form.may_end(piece):
        assert form.reopened(text, piece) == expected


@pytest.fixture
def ever_on(monkeypatch):
    """Another box is possible however unlikely."""
    monkeypatch.setattr(candidates, "POSSIBLE", 0.0)


def longer(detector: Detector, **options) -> Detector:
    return Detector(detector.loaded, labels=LABELS, max_new_tokens=400, **options)


@each_family
def test_the_answer_proper_stays_as_it_is(taught, samples, model_type, ever_on):
    images = [sample.image for sample in samples]
    plain = list(longer(taught(model_type), num_candidates=0).predict(images))
    going_on = list(longer(taught(model_type), num_candidates=2).predict(images))
    assert not any(len(one.candidates) for one in plain)
    assert any(not len(one.result.detections) for one in plain)  # an image without objects is among them
    for before, after in zip(plain, going_on, strict=True):
        assert (before.text, before.truncated) == (after.text, after.truncated)
        assert before.result.spans == after.result.spans
        assert (before.result.status, before.result.detections.labels) == ("ok", after.result.detections.labels)
        assert np.array_equal(before.result.detections.xyxy, after.result.detections.xyxy)
        assert np.allclose(before.result.detections.scores, after.result.detections.scores, atol=1e-4)


@each_family
def test_candidates_stand_behind_the_answer(taught, samples, model_type, monkeypatch):
    """Three boxes of which the answer proper holds two, as text; the third becomes the candidate, with its score."""
    detector = longer(taught(model_type))
    sample = samples[0]
    boxes = Detections([[0.1, 0.1, 0.3, 0.4], [0.5, 0.2, 0.8, 0.6], [0.2, 0.6, 0.9, 0.9]], [LABELS[0]] * 3)
    size = sample.image_hw
    boxes = boxes.scaled(size[1], size[0])
    input_hw = detector.encoder.question(sample.image, LABELS).input_hw
    own, whole = (detector.style.codec.encode(boxes.select(range(n)), size, input_hw) for n in (2, 3))
    own_answer, whole_answer = (
        Answer(text, tuple((n, n + 1) for n in range(len(text))), np.full(len(text), np.log(p)), False)
        for text, p in ((own, 0.8), (whole, 0.9))
    )
    num_common = len(own.removesuffix("]"))
    answer = replace(own_answer, continued=whole_answer, num_common_chars=num_common)
    ready = [[Written(detector.encoder.question(sample.image, LABELS), answer, None)], []]
    monkeypatch.setattr(detector_module.Writer, "advance", lambda _: ready.pop(0))
    (prediction,) = detector.predict([sample.image])
    assert prediction.result.status == "ok"
    assert len(prediction.result.detections) == 2
    assert prediction.text == own
    ((box,), score) = prediction.candidates.xyxy, prediction.candidates.scores
    assert np.abs(box - boxes.xyxy[2]).max() < 2
    assert score == pytest.approx(0.9 ** (3 + 1))  # what opens it and two characters before, and the mean of the rest
    assert prediction.result.detections.scores[1] == pytest.approx(0.8 ** (3 + 1))


@each_family
def test_a_candidate_scores_what_the_model_gives_it(taught, samples, model_type, ever_on):
    """Log-probabilities are those before anything was replaced: a forward pass over the whole text agrees."""
    detector = longer(taught(model_type))
    tokenizer, model = detector.loaded.processor.tokenizer, detector.loaded.model.eval()
    encoded = detector.encoder.question(samples[0].image, LABELS)
    inputs, _ = pad([encoded], [encoded.input_ids], tokenizer.pad_token_id)
    form = detector.style.codec.form
    (answer,) = written(model, tokenizer, form, [encoded], max_new_tokens=400, num_candidates=2)
    whole = answer.continued
    assert whole.text.startswith(answer.text[: answer.num_common_chars])
    assert len(whole.text) > answer.num_common_chars
    # up to what was put in instead of the end: behind it the tiny model writes what no tokenizer would write like this
    num_tokens = next(n for n, (start, _) in enumerate(whole.char_spans) if start >= answer.num_common_chars) + 1
    text = whole.text[: whole.char_spans[num_tokens - 1][1]]
    tokens = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    assert tokens.shape[1] == num_tokens
    longer_inputs = {**inputs, "input_ids": torch.cat([inputs["input_ids"], tokens], dim=1)}
    for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        more = torch.full(tokens.shape, fill, dtype=inputs[name].dtype)
        longer_inputs[name] = torch.cat([inputs[name], more], dim=1)
    with torch.no_grad():
        log_probs = model(**longer_inputs, use_cache=False).logits[0, -num_tokens - 1 : -1].log_softmax(-1)
    chosen = log_probs.gather(1, tokens[0][:, None])[:, 0].numpy()
    assert chosen[-1] < np.log(0.5)  # the model would have ended here
    assert np.allclose(whole.log_probs[:num_tokens], chosen, atol=1e-3)


def test_a_model_that_is_sure_is_left_alone(taught, samples):
    """Known by heart, another box has a probability below 0.01: not one token more is generated."""
    going_on = list(longer(taught("qwen2_vl"), num_candidates=5).predict([sample.image for sample in samples]))
    assert [len(one.candidates) for one in going_on] == [0] * len(samples)


def test_detect_gives_the_answer_alone(taught, samples, ever_on):
    detector = longer(taught("qwen2_vl"), num_candidates=3)
    for result, sample in zip(detector.detect([s.image for s in samples]), samples, strict=True):
        assert len(result.detections) == len(sample.detections)
