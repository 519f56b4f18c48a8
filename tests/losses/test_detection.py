"""The terms of a detection head: sums, counts and weights, over layers and batches."""

from __future__ import annotations

import pytest
import torch

from boxtune.losses import boxes, captions, detection, objectness
from boxtune.losses.detection import DetectionLossConfig, Layer, TrueObjects
from boxtune.losses.language import IGNORED

NUM_QUERIES = 5


def objects_of(counts: list[int], seed: int = 0) -> TrueObjects:
    noise = torch.Generator().manual_seed(seed)
    total = sum(counts)
    tokens = torch.randint(0, 7, (total, 3), generator=noise)
    if total:
        tokens[0, 1:] = IGNORED
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return TrueObjects(torch.rand(total, 4, generator=noise) * 0.5 + 0.2, owner, tokens, len(counts))


def layer_of(num_images: int, seed: int, dtype=torch.float32) -> Layer:
    noise = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, NUM_QUERIES, generator=noise, dtype=dtype).requires_grad_()
    found = (torch.rand(num_images, NUM_QUERIES, 4, generator=noise, dtype=dtype) * 0.8 + 0.1).requires_grad_()
    return Layer(logits, found)


def part(layer: Layer, objects: TrueObjects, images: slice) -> tuple[Layer, TrueObjects]:
    own = (objects.image >= images.start) & (objects.image < images.stop)
    return Layer(layer.objectness_logits[images], layer.boxes_cxcywh[images]), TrueObjects(
        objects.boxes_cxcywh[own], objects.image[own] - images.start, objects.tokens[own], images.stop - images.start
    )


def test_terms_are_those_of_the_matched_pairs():
    layer, objects, config = layer_of(3, 1), objects_of([2, 0, 1]), DetectionLossConfig(auxiliary=False)
    sums, matches = detection.totals([layer], objects, config)
    found, true = layer.boxes_cxcywh[matches.image, matches.query], objects.boxes_cxcywh[matches.box]
    is_object = torch.zeros(3, NUM_QUERIES, dtype=torch.bool)
    for image, query in zip(matches.image.tolist(), matches.query.tolist(), strict=True):
        is_object[image, query] = True
    assert is_object.sum(1).tolist() == [2, 0, 1]
    torch.testing.assert_close(sums["box_l1"], boxes.l1_total(found, true))
    torch.testing.assert_close(sums["box_giou"], boxes.giou_total(found, true))
    torch.testing.assert_close(sums["objectness"], objectness.focal_total(layer.objectness_logits, is_object))
    assert sums.keys() == {"box_l1", "box_giou", "objectness"}


def test_counts_are_boxes_images_and_tokens():
    objects = objects_of([2, 0, 1])
    counted = detection.counts(objects)
    assert counted["box_l1"] == counted["box_giou"] == counted["auxiliary_box_l1"] == 3
    assert counted["objectness"] == counted["auxiliary_objectness"] == 3
    assert counted["captions"] == int(captions.count(objects.tokens)) == 7


def test_earlier_layers_are_auxiliary_terms_with_matches_of_their_own():
    earlier, last, objects = layer_of(2, 1), layer_of(2, 2), objects_of([2, 1])
    sums, matches = detection.totals([earlier, earlier, last], objects, DetectionLossConfig())
    alone, own = detection.layer_totals(earlier, objects, DetectionLossConfig())
    assert own.query.tolist() != matches.query.tolist()  # the scene is one where it matters
    for name, value in alone.items():
        torch.testing.assert_close(sums["auxiliary_" + name], 2 * value)
    last_alone, _ = detection.layer_totals(last, objects, DetectionLossConfig())
    assert all(torch.equal(sums[name], value) for name, value in last_alone.items())


def test_auxiliary_terms_can_be_left_out():
    config = DetectionLossConfig(auxiliary=False)
    sums, _ = detection.totals([layer_of(2, 1), layer_of(2, 2)], objects_of([2, 1]), config)
    assert sums.keys() == {"box_l1", "box_giou", "objectness"}


@pytest.mark.parametrize("auxiliary", [True, False])
def test_proposals_are_always_trained(auxiliary):
    config = DetectionLossConfig(auxiliary=auxiliary)
    earlier, last, proposals, objects = layer_of(2, 1), layer_of(2, 2), layer_of(2, 3), objects_of([2, 1])
    sums, _ = detection.totals([earlier, last], objects, config, proposals=proposals)
    expected = [detection.layer_totals(layer, objects, config)[0] for layer in [proposals, earlier][: 1 + auxiliary]]
    for name in ("box_l1", "box_giou", "objectness"):
        torch.testing.assert_close(sums["auxiliary_" + name], sum(one[name] for one in expected))


@pytest.mark.parametrize("counts", [[2, 0, 1, 3], [0, 0, 0, 0], [1, 0, 0, 0]])
def test_batches_of_a_step_add_up_to_its_loss(counts):
    config, layers, objects = DetectionLossConfig(), [layer_of(4, 1), layer_of(4, 2)], objects_of(counts)
    step = detection.counts(objects)
    whole = detection.weighted(detection.totals(layers, objects, config)[0], step, config)
    shares = []
    for images in (slice(0, 1), slice(1, 4)):
        parts = [part(layer, objects, images) for layer in layers]
        sums, _ = detection.totals([one for one, _ in parts], parts[0][1], config)
        shares.append(detection.weighted(sums, step, config))
    torch.testing.assert_close(sum(shares), whole)


def test_weights():
    config = DetectionLossConfig(weight=0.2, box_l1=5, captions=3)
    assert detection.weights(config) == pytest.approx(
        {
            "box_l1": 1.0,
            "box_giou": 0.4,
            "objectness": 0.4,
            "captions": 0.6,
            "auxiliary_box_l1": 1.0,
            "auxiliary_box_giou": 0.4,
            "auxiliary_objectness": 0.4,
        }
    )
    sums = {"box_l1": torch.tensor(6.0), "captions": torch.tensor(4.0)}
    assert float(detection.weighted(sums, {"box_l1": 3, "captions": torch.tensor(2)}, config)) == pytest.approx(3.2)


def test_images_without_objects_teach_that_there_are_none():
    layer, objects, config = layer_of(2, 1), objects_of([0, 0]), DetectionLossConfig()
    sums, matches = detection.totals([layer], objects, config)
    loss = detection.weighted(sums, detection.counts(objects), config)
    loss.backward()
    assert len(matches.image) == 0
    assert (layer.objectness_logits.grad > 0).all()  # going down the gradient lowers every objectness
    assert float(layer.boxes_cxcywh.grad.abs().sum()) == 0


def test_gradients_are_those_of_finite_differences():
    """Matching is fixed between the two points of a difference, as long as no second assignment costs as much."""
    layer, objects = layer_of(2, 3, torch.float64), objects_of([2, 1])
    objects = objects._replace(boxes_cxcywh=objects.boxes_cxcywh.double())
    config = DetectionLossConfig()

    def loss(logits, found):
        sums, _ = detection.totals([Layer(logits, found)], objects, config)
        return detection.weighted(sums, detection.counts(objects), config)

    assert torch.autograd.gradcheck(loss, (layer.objectness_logits, layer.boxes_cxcywh))


def test_masked_slots_take_no_part():
    layer, objects, config = layer_of(2, 4), objects_of([1, 1]), DetectionLossConfig()
    mask = torch.ones(2, NUM_QUERIES, dtype=torch.bool)
    mask[1, 2:] = False
    sums, _ = detection.totals([layer._replace(mask=mask)], objects, config)
    detection.weighted(sums, detection.counts(objects), config).backward()
    assert float(layer.objectness_logits.grad[1, 2:].abs().sum()) == 0
    assert float(layer.boxes_cxcywh.grad[1, 2:].abs().sum()) == 0
    assert float(layer.objectness_logits.grad[1, :2].abs().min()) > 0
