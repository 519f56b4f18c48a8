"""Answers from slots: those of transformers' `generate`, whatever stands beside them and whenever they began."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from boxtune.collators.batch import Collator, pad
from boxtune.errors import DataError
from boxtune.inference.decoding import text_with_spans
from boxtune.inference.detector import Detector, own_detector
from boxtune.inference.language_pass import read_questions
from boxtune.inference.slots import SlotMemory, num_slots_for
from boxtune.inference.steps import Steps
from boxtune.inference.writing import stop_ids
from boxtune.losses import language
from boxtune.models.attention import attention_names, choose_for_questions, use_attention
from boxtune.models.compile import compile_blocks, release_blocks
from boxtune.models.contract import default_contract
from boxtune.models.families import FAMILIES, family
from boxtune.models.load import LoadedModel
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


@pytest.mark.parametrize("goes_ahead", [False, True])
@pytest.mark.parametrize(("num_slots", "at_once"), [(2, 1), (3, 2), (5, 2), (64, 3)])
def test_answers_of_different_lengths(tiny, taught, samples, num_slots, at_once, goes_ahead):
    """Slots are taken over while a step is under way that was begun for the answer before, and more questions are read
    than at once.
    """
    loaded = taught("qwen2_vl").loaded
    encoded = questions(tiny, samples, "qwen2_vl") * 3
    expected = by_generate(loaded.model, loaded.processor.tokenizer, encoded, max_new_tokens=60)
    assert len({len(log_probs) for _, log_probs in expected}) > 1
    asked = {"num_slots": num_slots, "at_once": at_once, "goes_ahead": goes_ahead, "max_new_tokens": 60}
    assert_same(answers_of(loaded.model, "qwen2_vl", loaded.processor, encoded, **asked), expected)


def test_no_step_is_taken_that_nobody_needs(tiny, samples, monkeypatch):
    """Where all answers reach the limit at once, it is known before."""
    model, processor = tiny("qwen2_vl")
    taken, step = [], Steps.step
    monkeypatch.setattr(Steps, "step", lambda self: (taken.append(1), step(self))[1])
    encoded = questions(tiny, samples, "qwen2_vl")
    answers = answers_of(model, "qwen2_vl", processor, encoded, goes_ahead=True, max_new_tokens=4)
    assert [len(answer.log_probs) for answer in answers] == [4] * len(encoded)
    assert len(taken) == 3  # the first token comes with the question


@pytest.mark.parametrize(
    ("batch_size", "free", "slots"), [(8, 1 << 40, 32), (8, 0, 8), (8, 4 * 20, 20), (3, 4 * 5, 5), (3, 4 * 4.9, 4)]
)
def test_as_many_slots_as_there_is_room_for(tiny, monkeypatch, batch_size, free, slots):
    model, _ = tiny("qwen2_vl")
    each = SlotMemory(model.config.get_text_config(), 1, torch.device("cpu"), torch.bfloat16).bytes_of_slot(600)
    memory = SlotMemory(model.config.get_text_config(), 3, torch.device("cpu"), torch.bfloat16)
    memory.grow(600)
    assert sum(tensor.nbytes for layer in memory.layers for tensor in layer) == 3 * each
    monkeypatch.setattr("boxtune.inference.slots.free_bytes", lambda device: free * each)
    assert num_slots_for(model, 600, torch.bfloat16, batch_size) == slots


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


@pytest.mark.parametrize("owns_model", [True, False])
def test_a_stream_goes_on_after_another_has_ended(taught, samples, owns_model):
    """What one stream sets on their common model and puts back, it puts back under nobody's feet."""
    model = copy.deepcopy(taught("qwen2_vl").loaded.model)
    loaded = replace(taught("qwen2_vl").loaded, model=model)
    make = own_detector if owns_model else Detector
    detector = make(loaded, labels=LABELS, batch_size=2, max_new_tokens=20)
    images = [sample.image for sample in samples] * 2
    expected = list(detector.predict(images))
    before = attention_names(model)
    short, long = detector.predict(images[:2]), detector.predict(images)
    next(short)
    found = [next(long)]
    assert attention_names(model) == before
    list(short)
    found += long
    assert attention_names(model) == before
    for one, other in zip(found, expected, strict=True):
        assert one.text == other.text
        assert np.allclose(one.answer.log_probs, other.answer.log_probs, rtol=0, atol=1e-4)


def test_a_model_is_trained_between_two_answers(taught, samples):
    """Gradients are those of the model as it was, though a stream over it is open."""
    processor = taught("qwen2_vl").loaded.processor
    model = copy.deepcopy(taught("qwen2_vl").loaded.model).train()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    batch = Collator(encoder_of("qwen2_vl", processor))(samples)

    def gradients():
        model.zero_grad()
        outputs = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False)
        language.total(outputs.logits, batch["targets"]).backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    expected = gradients()
    loaded = replace(taught("qwen2_vl").loaded, model=model)
    detector = Detector(loaded, labels=LABELS, batch_size=1, max_new_tokens=5)
    stream = detector.predict([sample.image for sample in samples])
    next(stream)
    found = gradients()
    assert len(list(stream)) == len(samples) - 1
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5) for name in found)


def test_an_answer_of_nan_spoils_no_later_one(tiny, samples):
    """Its keys stay behind the end of the next answer in its slot, masked away."""
    model, processor = tiny("qwen2_vl")
    short, *_, long = sorted(questions(tiny, samples, "qwen2_vl"), key=len)
    assert len(long) > len(short)
    spoilt = replace(long, pixel_values=torch.full_like(long.pixel_values, torch.nan))
    (expected,) = answers_of(model, "qwen2_vl", processor, [short], num_slots=1)
    bad, good = answers_of(model, "qwen2_vl", processor, [spoilt, short], num_slots=1)
    assert np.isnan(bad.log_probs).all()
    assert good.text == expected.text
    assert np.allclose(good.log_probs, expected.log_probs, rtol=0, atol=1e-4)


def test_a_stream_that_is_left_beside_an_answer_of_nan_spoils_no_later_one(taught, samples, monkeypatch):
    loaded = taught("qwen2_vl").loaded
    ends = stop_ids(loaded.model, loaded.processor.tokenizer) - {0}  # what NaN looks like, which never ends then
    monkeypatch.setattr("boxtune.inference.detector.stop_ids", lambda *_: ends)
    detector = own_detector(loaded, labels=LABELS, batch_size=2, max_new_tokens=120)
    images = [sample.image for sample in samples][:2]
    expected = [one.answer.log_probs for one in detector.predict(images)]
    good, bad = (detector._question(image, LABELS) for image in images)
    bad = replace(bad, pixel_values=torch.full_like(bad.pixel_values, torch.nan))
    stream = detector._written(iter([good, bad]), LABELS, 0)
    assert len(next(stream).answer.log_probs) < 120
    stream.close()
    (kept,) = detector._spare
    assert all(tensor.isfinite().all() for layer in kept.memory.layers for tensor in layer)
    found = [one.answer.log_probs for one in detector.predict(images)]
    assert all(np.allclose(one, two, rtol=0, atol=1e-4) for one, two in zip(found, expected, strict=True))


def test_the_longest_question_counts_labels_and_examples(taught, samples):
    loaded = taught("qwen2_vl").loaded
    largest = int(loaded.contract.max_pixels**0.5)
    for labels, examples in ((LABELS, ()), (tuple(f"label {n}" for n in range(300)), samples[:2])):
        detector = own_detector(loaded, labels=labels, examples=examples)
        for hw in ((largest, largest), (largest // 2, 2 * largest), (40, 60)):
            question = detector._question(Image.new("RGB", hw), labels)
            assert len(question) <= detector._longest(labels)


@pytest.mark.parametrize("where", ["grow", "views", "rounded"])
def test_an_interrupted_detector_answers_again(taught, samples, monkeypatch, where):
    """Slots in which something struck are not used again; those of a stream that was left are (see above)."""
    detector = own_detector(taught("qwen2_vl").loaded, labels=LABELS, batch_size=2, max_new_tokens=20)
    images = [sample.image for sample in samples]
    expected = [one.text for one in detector.predict(images)]
    with monkeypatch.context() as patch:

        def interrupt(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(SlotMemory, where, interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(detector.predict(images))
    assert not detector._spare
    assert [one.text for one in detector.predict(images)] == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_the_gpu_while_questions_are_read(tiny, samples):
    model = copy.deepcopy(tiny("qwen2_vl")[0]).to("cuda")
    encoded = questions(tiny, samples, "qwen2_vl")
    use_attention(model, choose_for_questions(model.device, bf16=True, looks_back=False))
    steps = Steps(model, 8, torch.bfloat16, graphs=False)

    def begin():
        chosen, _ = steps.begin(encoded, list(range(len(encoded))), 10)
        return chosen, steps.step()

    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        begin()  # memory is allocated
        torch.cuda.set_sync_debug_mode("error")
        try:
            chosen, after = begin()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len(chosen.pairs()) == len(encoded) <= len(after.pairs())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_are_recorded_while_other_threads_use_the_gpu(tiny, samples, recwarn):
    """On the last GPU of the machine, which is not the one torch takes by itself where there are several."""
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    model, processor = tiny("qwen2_vl")
    loaded = LoadedModel(
        copy.deepcopy(model).to(device), processor, default_contract("qwen2_vl", processor), False, "tiny"
    )
    images = [sample.image for sample in samples] * 3
    detector = own_detector(loaded, labels=LABELS, batch_size=2, max_new_tokens=20, compile_after=None)
    stop, errors = threading.Event(), []

    def allocate():
        size = 1
        try:
            while not stop.is_set():
                size = size % 64 + 1
                torch.ones(size << 18).to(device)
                torch.cuda.empty_cache()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=allocate)
    thread.start()
    try:
        found = list(detector.predict(images))
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert not [warning for warning in recwarn if "graph" in str(warning.message).lower()]
    assert detector._spare[0]._recorded
    detector._spare[0].graphs = False
    detector._spare[0].forget()
    for one, other in zip(found, detector.predict(images), strict=True):
        assert one.text == other.text
