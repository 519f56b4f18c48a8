"""Lengths told from sizes alone, against what is really encoded."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxtune.collators.lengths import check_lengths, longest_answer, num_image_tokens, num_tokens, sample_lengths
from boxtune.data.dataset import load_dataset
from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.errors import DataError
from boxtune.models.contract import pixel_limits, set_pixel_limits
from boxtune.models.families import FAMILIES
from collators.conversations import encoder_of, picture

each_family = pytest.mark.parametrize("model_type", FAMILIES)


@each_family
@settings(max_examples=25, deadline=None)
@given(height=st.integers(8, 700), width=st.integers(8, 700))
def test_image_tokens_are_known_from_the_size(tiny, model_type, height, width):
    encoder = encoder_of(model_type, tiny(model_type)[1])
    assert num_image_tokens(encoder, (height, width)) == int(encoder.question(picture(height, width)).vision_mask.sum())


@each_family
@pytest.mark.parametrize("size", [(60, 200), (500, 900), (30, 40)], ids=["same", "reduced", "enlarged"])
def test_length_is_known_before_decoding(tiny, model_type, size):
    height, width = size
    truth = Detections([[1, 2, width / 2, height / 2], [width / 3, height / 3, width, height]], ["table", "red cell"])
    encoder = encoder_of(model_type, tiny(model_type)[1])
    told = num_tokens(encoder, truth, size)
    real = len(encoder.sample(Sample("s", picture(height, width), truth, "")))
    if encoder.style.codec.describe()["space"] == "input_pixels":
        assert abs(told - real) <= 8  # a number may have a digit more or less, each box has four
    else:
        assert told == real


@pytest.fixture
def dataset(tmp_path):
    rows = []
    for index, size in enumerate([(40, 60), (200, 210), (120, 90)]):
        picture(*size).save(tmp_path / f"{index}.png")
        boxes = [{"bbox_xyxy_px": [1, 2, 20 + 10 * i, 30], "label": "table"} for i in range(index + 1)]
        rows.append({"image": f"{index}.png", "objects": boxes})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load_dataset(str(tmp_path), split=None)


@each_family
def test_too_long_samples_are_named_before_training(tiny, dataset, model_type):
    processor = tiny(model_type)[1]
    encoder = encoder_of(model_type, processor)
    lengths = [num_tokens(encoder, dataset.detections(i), dataset.image_hw(i)) for i in range(len(dataset))]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    check_lengths(encoder_of(model_type, processor, max_length=max(lengths)), dataset)
    check_lengths(encoder, dataset)
    with pytest.raises(DataError) as error:
        check_lengths(encoder_of(model_type, processor, max_length=min(lengths)), dataset)
    message = str(error.value)
    assert message.startswith("2 of 3 samples")
    assert f"'{dataset[longest].id}' with {max(lengths)}" in message


@each_family
def test_longest_answer_holds_every_answer(tiny, dataset, model_type):
    encoder = encoder_of(model_type, tiny(model_type)[1])
    spans = [encoder.sample(sample).answer_spans[0] for sample in dataset]
    longest = max(end - start for start, end in spans) - 1  # the line end after the stop token is not generated
    assert abs(longest_answer(encoder, dataset) - longest) <= (8 if model_type == "qwen2_5_vl" else 0)


def test_lengths_of_all_samples_are_those_of_each(tiny, dataset):
    processor = tiny("qwen3_vl")[1]
    encoder = encoder_of("qwen3_vl", processor)
    each = [num_tokens(encoder, dataset.detections(i), dataset.image_hw(i)) for i in range(len(dataset))]
    assert list(sample_lengths(encoder, dataset)) == each
    assert list(sample_lengths(encoder, dataset.subset([2, 0]))) == [each[2], each[0]]
    assert list(sample_lengths(encoder, dataset.subset([]))) == []


def test_lengths_are_counted_again_where_they_may_be_others(tiny, dataset):
    processor = copy.deepcopy(tiny("qwen3_vl")[1])
    encoder = encoder_of("qwen3_vl", processor)
    before = list(sample_lengths(encoder, dataset))
    assert sample_lengths(encoder, dataset) is sample_lengths(encoder, dataset)
    longer = encoder_of("qwen3_vl", processor)
    longer = replace(longer, style=replace(longer.style, prompt="Find every one of these things: {labels}."))
    assert list(sample_lengths(longer, dataset)) == [
        num_tokens(longer, dataset.detections(i), dataset.image_hw(i)) for i in range(len(dataset))
    ]
    smallest, largest = pixel_limits(processor)
    set_pixel_limits(processor, smallest, largest // 8)
    assert list(sample_lengths(encoder, dataset)) < before
