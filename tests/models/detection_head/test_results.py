"""From logits to detections, by scenes made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from boxtune.detections import Detections
from boxtune.errors import ConfigError
from boxtune.models.detection_head.head import HeadOutputs
from boxtune.models.detection_head.queries import Predictions
from boxtune.models.detection_head.results import found_objects, without_duplicates
from models.detection_head.head_scenes import END, random_embedding, small_head
from models.detection_head.test_captioner import Letters

HW = [(100, 200), (50, 40)]


class Alphabet(Letters):
    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(token - 3 + ord("a")) for token in tokens)


def outputs_of(probabilities, boxes) -> HeadOutputs:
    states = torch.randn(len(probabilities), len(probabilities[0]), 16, generator=torch.Generator().manual_seed(0))
    found = Predictions(torch.tensor(probabilities).logit(), torch.tensor(boxes).logit())
    return HeadOutputs(states, (found,), None)


SCENE = outputs_of(
    [[0.3, 0.9, 0.01], [0.02, 0.01, 0.03]],
    [[[0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.4, 0.2], [0.5] * 4], [[0.5] * 4] * 3],
)


def test_boxes_are_pixels_of_the_image_and_the_best_come_first():
    found = found_objects(small_head(), SCENE, HW, random_embedding(), Alphabet(), labels=["a"])
    assert len(found) == 2
    # 0.1 ± 0.2 of 200 px begins left of the image; 0.2 ± 0.1 of 100 px
    np.testing.assert_allclose(found[0].xyxy, [[0, 10, 60, 30], [50, 25, 150, 75]], atol=1e-4)
    np.testing.assert_allclose(found[0].scores, [0.9, 0.3], atol=1e-6)
    assert found[0].labels == ("a", "a")
    assert found[1] == Detections.empty(scored=True)


def test_of_a_list_the_likeliest_label_is_taken_and_its_share_is_in_the_score():
    head, embedding = small_head(), random_embedding()
    found = found_objects(head, SCENE, HW, embedding, Alphabet(), labels=["ab", "c", "dd"])[0]
    rows = torch.tensor([[3, 4, END], [5, END, -100], [6, 6, END]])
    share = head.captioner.log_likelihoods(SCENE.states[0, [1, 0]], rows, embedding).softmax(-1)
    expected = share.max(-1)
    assert found.labels == tuple(["ab", "c", "dd"][i] for i in expected.indices)
    by_query = {0.9: 0, 0.3: 1}
    for score, objectness in zip(found.scores, (0.9, 0.3), strict=True):
        assert score == pytest.approx(objectness * float(expected.values[by_query[objectness]]), rel=1e-5)


def test_free_labels_are_written_and_their_probability_is_in_the_score():
    head, embedding = small_head(), random_embedding()
    found = found_objects(head, SCENE, HW, embedding, Alphabet())[0]
    tokens, log_probs = head.captioner.write(SCENE.states[0, [1, 0]], embedding)
    scores = torch.tensor([0.9, 0.3]) * log_probs.exp()
    written = [Alphabet().decode([t for t in row if t >= 0], True).strip() for row in tokens.tolist()]
    order = scores.argsort(descending=True).tolist()
    assert found.labels == tuple(written[i] for i in order)
    np.testing.assert_allclose(found.scores, scores[order], rtol=1e-5)


def test_only_confident_queries_are_captioned(monkeypatch):
    head, seen = small_head(), []

    def write(states, _embedding):
        seen.append(len(states))
        return torch.full((len(states), 1), 3), torch.zeros(len(states))

    monkeypatch.setattr(head.captioner, "write", write)
    for limit, expected in [(0.05, 2), (0.5, 1), (0.95, 0), (0.0, 6)]:
        found = found_objects(head, SCENE, HW, random_embedding(), Alphabet(), min_objectness=limit)
        assert seen.pop() == expected == sum(map(len, found))


def test_no_labels_to_choose_from_are_refused():
    with pytest.raises(ConfigError, match="No labels"):
        found_objects(small_head(), SCENE, HW, random_embedding(), Alphabet(), labels=[])


def test_duplicates_go_only_where_asked_and_only_within_a_label():
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [20, 20, 30, 30]]  # IoU of the first two: 9/11
    detections = Detections(boxes, ["a", "a", "b", "a"], [0.5, 0.9, 0.3, 0.4])
    assert without_duplicates(detections, 0.5) == detections.select([1, 3, 2])
    assert len(without_duplicates(detections, 0.9)) == 4
    assert without_duplicates(Detections.empty(scored=True), 0.5) == Detections.empty(scored=True)


def test_nms_is_off_by_default():
    twice = outputs_of([[0.8, 0.7]], [[[0.5] * 4, [0.5, 0.5, 0.5, 0.49]]])
    arguments = (small_head(), twice, HW[:1], random_embedding(), Alphabet())
    assert len(found_objects(*arguments, labels=["a"])[0]) == 2
    assert len(found_objects(*arguments, labels=["a"], nms_iou=0.7)[0]) == 1
