"""Our own encoding against the processors of transformers, and the places of the answers."""

from __future__ import annotations

import copy

import pytest
import torch

from boxtune.collators.encode import render
from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.errors import ConfigError, DataError
from boxtune.models.families import FAMILIES
from collators.conversations import encode_messages, encoder_of, many_turns, picture, turn, two_images

each_family = pytest.mark.parametrize("model_type", FAMILIES)


def assert_as_the_processor(encoded, processor, text, images):
    expected = processor(text=[text], images=list(images), return_tensors="pt")
    assert torch.equal(encoded.input_ids, expected["input_ids"][0])
    assert torch.equal(encoded.vision_mask.int(), expected["mm_token_type_ids"][0].int())
    assert torch.equal(encoded.pixel_values, expected["pixel_values"])
    assert torch.equal(encoded.image_grid_thw, expected["image_grid_thw"])
    assert set(expected) == {"input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"}


@each_family
def test_samples_equal_the_processor(tiny, samples, model_type):
    processor = tiny(model_type)[1]
    encoder = encoder_of(model_type, processor)
    for sample in samples:
        encoded = encoder.sample(sample)
        answer = encoder.style.answer(sample.detections, sample.image_hw, encoded.input_hw)
        text = processor.apply_chat_template([*encoder.style.question(), answer])
        assert_as_the_processor(encoded, processor, text, [sample.image])


@each_family
def test_questions_equal_the_processor(tiny, samples, model_type):
    processor = tiny(model_type)[1]
    encoder = encoder_of(model_type, processor, system="You look.")
    encoded = encoder.question(samples[0].image, ("red cell",))
    messages = encoder.style.question(("red cell",))
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert_as_the_processor(encoded, processor, text, [samples[0].image])
    assert encoded.answer_spans == ()


@pytest.mark.parametrize("messages", [two_images(), many_turns()], ids=["adjacent", "turns"])
@each_family
def test_several_images_equal_the_processor(tiny, model_type, messages):
    processor = tiny(model_type)[1]
    images = [picture(120, 80, seed=1), picture(70, 200, seed=2)]
    encoded = encode_messages(encoder_of(model_type, processor), messages, images)
    assert_as_the_processor(encoded, processor, processor.apply_chat_template(messages), images)
    answers = [m["content"][0]["text"] + "<|im_end|>\n" for m in messages if m["role"] == "assistant"]
    assert [processor.tokenizer.decode(encoded.input_ids[a:b]) for a, b in encoded.answer_spans] == answers


@each_family
def test_input_size_is_that_of_the_grid(tiny, samples, model_type):
    processor = tiny(model_type)[1]
    patch, merged = processor.image_processor.patch_size, 2 * processor.image_processor.patch_size
    for sample in samples:
        encoded = encoder_of(model_type, processor).sample(sample)
        assert encoded.image_hw == sample.image_hw
        assert encoded.input_hw == tuple((encoded.image_grid_thw[0, 1:] * patch).tolist())
        assert all(side % merged == 0 for side in encoded.input_hw)
        assert int(encoded.vision_mask.sum()) == encoded.input_hw[0] * encoded.input_hw[1] // merged**2


@each_family
def test_boxes_are_written_for_the_input_size(tiny, model_type):
    """A large image that is reduced: boxes of the answer decode to where they were in the file."""
    processor = tiny(model_type)[1]
    encoder = encoder_of(model_type, processor)
    truth = Detections([[100, 50, 600, 350]], ["table"])
    encoded = encoder.sample(Sample("large", picture(400, 800), truth, ""))
    assert encoded.input_hw != encoded.image_hw
    (start, end) = encoded.answer_spans[0]
    answer = processor.tokenizer.decode(encoded.input_ids[start : end - 2])
    result = encoder.style.codec.decode(answer, encoded.image_hw, encoded.input_hw)
    assert result.status == "ok"
    assert result.detections.xyxy == pytest.approx(truth.xyxy, abs=2)


@each_family
def test_empty_answer_is_explicit(tiny, samples, model_type):
    processor = tiny(model_type)[1]
    encoder = encoder_of(model_type, processor)
    encoded = encoder.sample(samples[1])
    ((start, end),) = encoded.answer_spans
    answer = processor.tokenizer.decode(encoded.input_ids[start:end])
    assert answer == encoder.style.codec.form.empty_answer + "<|im_end|>\n"


@each_family
def test_too_long_is_refused_and_nothing_is_cut(tiny, samples, model_type):
    processor = tiny(model_type)[1]
    length = len(encoder_of(model_type, processor).sample(samples[2]))
    assert len(encoder_of(model_type, processor, max_length=length).sample(samples[2])) == length
    with pytest.raises(DataError, match=rf"image-2 has {length} tokens, collator.max_length allows {length - 1}"):
        encoder_of(model_type, processor, max_length=length - 1).sample(samples[2])


def test_extreme_shapes_name_the_sample(tiny):
    encoder = encoder_of("qwen2_vl", tiny("qwen2_vl")[1])
    with pytest.raises(DataError, match=r"ribbon.*2×500"):
        encoder.sample(Sample("ribbon", picture(500, 2), Detections.empty(), ""))


@pytest.mark.parametrize("place", ["<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>"])
def test_an_image_place_typed_by_hand_is_refused(tiny, samples, place):
    encoder = encoder_of("qwen2_5_vl", tiny("qwen2_5_vl")[1], prompt=f"Look: {place} {{labels}}")
    with pytest.raises(ConfigError, match="2 image places for 1 images"):
        encoder.sample(samples[0])


def test_a_template_that_rewrites_history_is_refused(tiny):
    """Some templates drop earlier answers or thoughts; then an answer cannot be found by lengths."""
    processor = copy.copy(tiny("qwen2_vl")[1])
    processor.chat_template = "{% for m in messages %}{{ loop.length }}{{ m.content[0].text }}{% endfor %}"
    with pytest.raises(ConfigError, match="changes earlier messages"):
        render(processor, [turn("user", "a"), turn("assistant", "b")])
