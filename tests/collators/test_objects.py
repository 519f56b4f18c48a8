"""What a detection head is told of a batch: true objects as shares of their images, and where its memory lies."""

from __future__ import annotations

import pytest
import torch

from boxtune.collators.batch import Collator
from boxtune.collators.objects import ObjectTargets
from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.errors import ConfigError
from boxtune.losses.detection import TrueObjects
from boxtune.models.detection_head.config import DetectionHeadConfig, fitted_to
from collators.conversations import encoder_of, picture


def targets(tiny, **choices) -> ObjectTargets:
    model, processor = tiny("qwen2_vl")
    config: DetectionHeadConfig = fitted_to(model.config.text_config, processor.tokenizer.eos_token_id, **choices)
    return ObjectTargets(processor, config)


def sample(boxes, labels, size=(100, 200), name="a") -> Sample:
    return Sample(name, picture(*size), Detections(boxes, labels), "here")


def test_boxes_are_shares_of_their_own_image(tiny):
    made = targets(tiny).objects(
        [
            sample([[0, 0, 200, 100], [20, 10, 60, 90]], ["table", "red cell"]),
            sample([], []),
            sample([[5, 10, 25, 50]], ["table"], size=(50, 50)),
        ]
    )
    expected = [[0.5, 0.5, 1, 1], [0.2, 0.5, 0.2, 0.8], [0.3, 0.6, 0.4, 0.8]]
    torch.testing.assert_close(made.boxes_cxcywh, torch.tensor(expected))
    assert made.image.tolist() == [0, 0, 2]
    assert made.num_images == 3


def test_what_lies_outside_of_an_image_is_cut_off(tiny):
    made = targets(tiny).objects([sample([[-50, -10, 100, 50]], ["table"])])
    torch.testing.assert_close(made.boxes_cxcywh, torch.tensor([[0.25, 0.25, 0.5, 0.5]]))


def test_labels_are_tokens_that_read_back(tiny):
    objects = targets(tiny)
    made = objects.objects([sample([[0, 0, 9, 9], [1, 1, 5, 5]], ["table", "red cell"])])
    tokenizer = objects.processor.tokenizer
    rows = [[token for token in row if token >= 0] for row in made.tokens.tolist()]
    assert [row[-1] for row in rows] == [tokenizer.eos_token_id] * 2
    assert [tokenizer.decode(row[:-1]) for row in rows] == ["table", "red cell"]


def test_images_without_objects(tiny):
    made = targets(tiny).objects([sample([], []), sample([], [])])
    assert (made.boxes_cxcywh.shape, made.image.shape, made.num_images) == ((0, 4), (0,), 2)


def test_a_label_that_is_too_long_is_named(tiny):
    with pytest.raises(ConfigError, match=r"'red cell red cell' has .* tokens, the detection head writes 2"):
        targets(tiny, max_label_tokens=2).objects([sample([[0, 0, 9, 9]], ["red cell red cell"])])


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_a_batch_carries_them_as_plain_dicts_of_tensors(tiny, samples, batching):
    """What the Trainer moves to its device; it breaks named tuples."""
    objects = targets(tiny)
    batch = Collator(encoder_of("qwen2_vl", objects.processor), batching=batching, objects=objects)(samples)
    told = batch["targets"]["detection"]
    assert [type(part) for part in told.values()] == [dict, dict, dict]
    assert all(isinstance(value, torch.Tensor | int) for part in told.values() for value in part.values())
    assert TrueObjects(**told["objects"]).num_images == len(samples)
    assert told["counts"]["box_l1"] == 4
    tokens = batch["inputs"]["input_ids"].flatten()
    pad = objects.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    memory = told["memory"]
    assert (tokens[memory["image_columns"][memory["image_mask"]]] == pad).all()
    assert (tokens[memory["prompt_columns"][memory["prompt_mask"]]] != pad).all()
