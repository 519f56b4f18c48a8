"""What the head may look at, on the real classes of every family: never an answer, never another sample."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from boxtune.collators.batch import pack, pad
from boxtune.collators.positions import text_and_mrope_positions
from boxtune.errors import DataError
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.memory import (
    gather_memory,
    memory_index,
    question_span,
    sample_places,
    token_centres,
)
from boxtune.models.detection_head.tap import tapped
from boxtune.models.families import FAMILIES
from collators.conversations import encode_messages, encoder_of, image, many_turns, picture, text, turn, two_images

each_family = pytest.mark.parametrize("model_type", FAMILIES)
HIDDEN = 8


def encode(model_type, processor, samples):
    """With questions of two lengths, so that they need padding too."""
    encoders = [encoder_of(model_type, processor, labels=labels) for labels in (("table",), ("table", "red cell"))]
    return [encoders[number % 2].sample(sample) for number, sample in enumerate(samples)]


def batch_of(encoded, processor, batching):
    ids = [e.input_ids for e in encoded]
    if batching == "packed":
        return pack(encoded, ids, processor.image_processor.merge_size)[0]
    return pad(encoded, ids, processor.tokenizer.pad_token_id, side=batching.removeprefix("padded "))[0]


def index_of(encoded, inputs, model_config):
    spans = [question_span(e.answer_spans, len(e)) for e in encoded]
    return memory_index(inputs, spans, image_token_id=model_config.image_token_id, merge_size=2)


def memory_of(model, encoded, inputs):
    with torch.no_grad(), tapped(model) as features:
        model(**inputs, use_cache=False)
    return gather_memory(features.hidden, features.vision, index_of(encoded, inputs, model.config))


def head_for(model, processor, **choices):
    torch.manual_seed(0)
    choices = {"num_queries": 7, "caption_layers": 1, **choices}
    return DetectionHead(fitted_to(model.config.text_config, processor.tokenizer.eos_token_id, **choices)).eval()


def numbered_states(inputs, encoded):
    """States that say where they come from: hidden ones their place in the batch, vision ones their row."""
    rows, length = inputs["input_ids"].shape
    hidden = torch.arange(rows * length, dtype=torch.float32).reshape(rows, length, 1).expand(-1, -1, HIDDEN)
    vision = torch.arange(sum(int(e.vision_mask.sum()) for e in encoded), dtype=torch.float32)[:, None]
    return hidden, vision.expand(-1, HIDDEN)


@pytest.mark.parametrize(
    ("answers", "length", "expected"),
    [
        ([], 9, (0, 9)),  # only asked
        ([(5, 9)], 9, (0, 5)),
        ([(5, 9), (14, 20)], 22, (9, 14)),  # an example before
        ([(2, 3), (5, 9), (14, 20)], 20, (9, 14)),
    ],
)
def test_question_span(answers, length, expected):
    assert question_span(answers, length) == expected


@pytest.mark.parametrize(
    ("answers", "length", "expected"), [([], 9, (0, 9)), ([(5, 9)], 14, (9, 14)), ([(5, 9), (14, 20)], 26, (20, 26))]
)
def test_question_span_where_only_examples_are_answered(answers, length, expected):
    assert question_span(answers, length, is_answered=False) == expected


def test_places_of_padded_and_packed_samples():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert sample_places({"attention_mask": mask}) == [(0, 2, 4), (1, 0, 4)]
    assert sample_places({"attention_mask": mask.flip(1)}) == [(0, 0, 2), (1, 0, 4)]
    text_row = torch.tensor([0, 1, 2, 0, 0, 1])
    assert sample_places({"position_ids": text_row.expand(4, 1, -1)}) == [(0, 0, 3), (0, 3, 4), (0, 4, 6)]


def test_centres_are_the_rows_and_columns_that_the_model_itself_counts():
    grid = torch.tensor([[1, 6, 10]])
    centres = token_centres(3, 5)
    positions = text_and_mrope_positions(torch.ones(15, dtype=torch.bool), grid, 2)
    torch.testing.assert_close(centres[:, 0] * 5 - 0.5, positions[3].float())
    torch.testing.assert_close(centres[:, 1] * 3 - 0.5, positions[2].float())


@pytest.mark.parametrize("batching", ["padded left", "padded right", "packed"])
def test_exactly_image_and_question_are_fetched(tiny, samples, batching):
    model, processor = tiny("qwen2_5_vl")
    encoded = encode("qwen2_5_vl", processor, samples)
    inputs = batch_of(encoded, processor, batching)
    hidden, vision = numbered_states(inputs, encoded)
    memory = gather_memory(hidden, vision, index_of(encoded, inputs, model.config))
    first_row, length = 0, inputs["input_ids"].shape[1]
    for number, (sample, place) in enumerate(zip(encoded, sample_places(inputs), strict=True)):
        offset = place.row * length + place.start
        tokens = sample.vision_mask.nonzero()[:, 0]
        question = torch.arange(sample.answer_spans[0][0])
        own = memory.image_mask[number]
        assert memory.image[number, own, 0].tolist() == (tokens + offset).tolist()
        assert memory.vision[number, own, 0].tolist() == list(range(first_row, first_row + len(tokens)))
        text_places = question[~sample.vision_mask[: len(question)]] + offset
        assert memory.prompt[number, memory.prompt_mask[number], 0].tolist() == text_places.tolist()
        rows, columns = (sample.image_grid_thw[0, 1:] // 2).tolist()
        torch.testing.assert_close(memory.centres_xy[number, own], token_centres(rows, columns))
        first_row += len(tokens)
    for states, mask in [
        (memory.vision, memory.image_mask),
        (memory.image, memory.image_mask),
        (memory.prompt, memory.prompt_mask),
    ]:
        assert not mask.all()  # the scene has padding
        assert float(states[~mask].abs().sum()) == 0


@pytest.mark.parametrize("batching", ["padded right", "packed"])
def test_of_several_images_the_last_is_the_one_in_question(tiny, batching):
    model, processor = tiny("qwen2_5_vl")
    encoder = encoder_of("qwen2_5_vl", processor)
    examples = encode_messages(encoder, many_turns(), [picture(100, 60, 3), picture(60, 90, 4)])
    beside = encode_messages(encoder, two_images(), [picture(60, 90, 1), picture(120, 60, 2)])
    encoded = [examples, beside]
    inputs = batch_of(encoded, processor, batching)
    hidden, vision = numbered_states(inputs, encoded)
    memory = gather_memory(hidden, vision, index_of(encoded, inputs, model.config))
    sizes = [rows * columns // 4 for e in encoded for rows, columns in e.image_grid_thw[:, 1:].tolist()]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    length = inputs["input_ids"].shape[1]
    for number, (sample, place, last) in enumerate(zip(encoded, sample_places(inputs), (1, 3), strict=True)):
        offset, own = place.row * length + place.start, memory.image_mask[number]
        assert memory.vision[number, own, 0].tolist() == list(range(ends[last] - sizes[last], ends[last]))
        tokens = sample.vision_mask.nonzero()[-sizes[last] :, 0] + offset
        assert memory.image[number, own, 0].tolist() == tokens.tolist()
        start, end = question_span(sample.answer_spans, len(sample))
        seen = memory.prompt[number, memory.prompt_mask[number], 0] - offset
        assert seen.min() >= start
        assert seen.max() < end
        assert not sample.vision_mask[seen.long()].any()
        answered = [place for first, after in sample.answer_spans for place in range(first, after)]
        assert not set(seen.tolist()) & set(answered)


def test_a_follow_up_question_looks_at_the_image_before_it(tiny):
    model, processor = tiny("qwen2_vl")
    messages = [turn("user", image(), "What?"), turn("assistant", "Cell."), turn("user", text("Where?"))]
    encoded = encode_messages(encoder_of("qwen2_vl", processor), messages, [picture(60, 90)])
    asked = dataclasses.replace(encoded, answer_spans=())
    inputs = batch_of([asked], processor, "padded right")
    index = memory_index(
        inputs, [(encoded.answer_spans[0][1], len(encoded))], image_token_id=model.config.image_token_id, merge_size=2
    )
    assert int(index["image_mask"].sum()) == int(encoded.vision_mask.sum())
    assert int(index["prompt_columns"].min()) == encoded.answer_spans[0][1]


def test_a_sample_without_an_image_is_refused(tiny, samples):
    model, processor = tiny("qwen2_vl")
    encoded = encode("qwen2_vl", processor, samples[:2])
    inputs = batch_of(encoded, processor, "padded right")
    inputs["input_ids"][1] = 5
    with pytest.raises(DataError, match="Sample 1 of the batch shows no image"):
        index_of(encoded, inputs, model.config)


@each_family
def test_padded_packed_and_alone_are_the_same(tiny, samples, model_type):
    """fp32 sums in another order: 1e-5."""
    model, processor = tiny(model_type)
    encoded = encode(model_type, processor, samples)
    for queries in ("learned", "tokens"):
        head = head_for(model, processor, queries=queries)
        outputs = {}
        for batching in ("padded right", "padded left", "packed"):
            with torch.no_grad():
                outputs[batching] = head(memory_of(model, encoded, batch_of(encoded, processor, batching)))
        alone = [
            head(memory_of(model, [one], batch_of([one], processor, "padded right"))).found.boxes for one in encoded
        ]
        expected = outputs["packed"]
        for other in (outputs["padded right"], outputs["padded left"]):
            torch.testing.assert_close(other.states, expected.states, atol=1e-5, rtol=0)
            torch.testing.assert_close(other.found.boxes, expected.found.boxes, atol=1e-5, rtol=0)
            torch.testing.assert_close(
                other.found.objectness_logits, expected.found.objectness_logits, atol=1e-5, rtol=0
            )
        torch.testing.assert_close(torch.cat(alone), expected.found.boxes, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batching", ["padded right", "packed"])
@each_family
def test_the_answer_is_never_seen(tiny, samples, model_type, batching):
    """Other tokens in the answers, and noise in the states of the answers, change nothing."""
    model, processor = tiny(model_type)
    encoded = encode(model_type, processor, samples)
    inputs = batch_of(encoded, processor, batching)
    head = head_for(model, processor)
    with torch.no_grad(), tapped(model) as features:
        model(**inputs, use_cache=False)
        index = index_of(encoded, inputs, model.config)
        expected = head(gather_memory(features.hidden, features.vision, index)).states
        noisy, other = features.hidden.clone(), {**inputs, "input_ids": inputs["input_ids"].clone()}
        for sample, place in zip(encoded, sample_places(inputs), strict=True):
            start, end = (place.start + at for at in sample.answer_spans[0])
            noisy[place.row, start:] = torch.where(
                torch.arange(start, noisy.shape[1])[:, None] < end, torch.nan, noisy[place.row, start:]
            )
            other["input_ids"][place.row, start:end] = 7
        assert torch.equal(head(gather_memory(noisy, features.vision, index)).states, expected)
        changed = memory_of(model, encoded, other)
    assert not torch.equal(other["input_ids"], inputs["input_ids"])
    torch.testing.assert_close(head(changed).states, expected, atol=1e-6, rtol=0)


@each_family
def test_asked_without_an_answer_the_head_says_the_same(tiny, samples, model_type):
    """What is trained with the answer in the batch is what runs at inference, on the question alone."""
    model, processor = tiny(model_type)
    encoder, head = encoder_of(model_type, processor), head_for(model, processor)
    taught = [encoder.sample(sample) for sample in samples]
    asked = [encoder.question(sample.image) for sample in samples]
    assert [len(one) for one in asked] == [one.answer_spans[0][0] for one in taught]
    said = [
        head(memory_of(model, encoded, batch_of(encoded, processor, batching))).found.box_logits
        for encoded, batching in ((taught, "packed"), (asked, "padded left"))
    ]
    torch.testing.assert_close(said[0], said[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("batching", ["padded right", "packed"])
def test_no_sample_reaches_another(tiny, samples, batching):
    """Whatever the states of one are, even no numbers, the others' outputs are the same to the last bit."""
    model, processor = tiny("qwen2_5_vl")
    encoded = encode("qwen2_5_vl", processor, samples)
    inputs = batch_of(encoded, processor, batching)
    head = head_for(model, processor, queries="tokens")
    with torch.no_grad(), tapped(model) as features:
        model(**inputs, use_cache=False)
        index = index_of(encoded, inputs, model.config)
        expected = head(gather_memory(features.hidden, features.vision, index)).states
        for number, place in enumerate(sample_places(inputs)):
            hidden, vision = features.hidden.clone(), features.vision.clone()
            hidden[place.row, place.start : place.end] = torch.nan
            vision[index["vision_rows"][number][index["image_mask"][number]]] = torch.nan
            states = head(gather_memory(hidden, vision, index)).states
            others = [i for i in range(len(encoded)) if i != number]
            assert torch.equal(states[others], expected[others])
            assert torch.isnan(states[number]).all()


def test_the_image_and_the_question_are_seen(tiny, samples):
    model, processor = tiny("qwen2_5_vl")
    encoded = encode("qwen2_5_vl", processor, samples[:1])
    inputs = batch_of(encoded, processor, "padded right")
    head = head_for(model, processor)
    memory = memory_of(model, encoded, inputs)
    expected = head(memory).states
    for field in ("vision", "image", "prompt", "centres_xy"):
        changed = getattr(memory, field).clone()
        changed[0, 3] = changed[0, 0]  # one token becomes another
        assert not torch.allclose(head(memory._replace(**{field: changed})).states, expected, atol=1e-4), field


def test_gradients_reach_vision_tower_and_language_model(tiny, samples):
    model, processor = tiny("qwen2_vl")
    encoded = encode("qwen2_vl", processor, samples)
    inputs = batch_of(encoded, processor, "packed")
    head = head_for(model, processor).train()
    try:
        with tapped(model) as features:
            model(**inputs, use_cache=False)
        memory = gather_memory(features.hidden, features.vision, index_of(encoded, inputs, model.config))
        head(memory).found.boxes.sum().backward()
        for name in ("visual.patch_embed.proj", "language_model.layers.1.mlp.up_proj"):
            assert float(model.model.get_submodule(name).weight.grad.abs().sum()) > 0
    finally:
        model.zero_grad()
