"""A small head learns eight pictures by heart: every part, loss and result in one line from features to AP50."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from boxtune.detections import Detections, xyxy_to_cxcywh
from boxtune.evaluation.average_precision import average_precision
from boxtune.evaluation.predictions import coco_ground_truth, coco_results
from boxtune.losses import captions, detection
from boxtune.losses.detection import DetectionLossConfig, Layer, TrueObjects
from boxtune.models.detection_head.captioner import encode_labels
from boxtune.models.detection_head.head import DetectionHead, HeadOutputs
from boxtune.models.detection_head.memory import Memory, token_centres
from boxtune.models.detection_head.queries import Predictions
from boxtune.models.detection_head.results import found_objects
from models.detection_head.head_scenes import HIDDEN, random_embedding, small_config, stacked
from models.detection_head.test_results import Alphabet

LABELS = ("red", "blue")
PIXELS, PATCH = 64, 8
TOKENIZER = Alphabet()


def draw(noise: np.random.Generator, count: int) -> tuple[np.ndarray, Detections]:
    """A noisy grey picture with coloured rectangles, one a quadrant at most."""
    picture = noise.normal(0, 0.2, (PIXELS, PIXELS, 3))
    boxes, labels = [], []
    for quadrant in noise.permutation(4)[:count]:
        x, y = 32 * np.array(divmod(int(quadrant), 2)) + noise.integers(1, 8, 2)
        width, height = noise.integers(12, 24, 2)
        colour = int(noise.integers(0, 2))
        picture[y : y + height, x : x + width, 2 * colour] += 2
        boxes.append([x, y, x + width, y + height])
        labels.append(LABELS[colour])
    return picture, Detections(boxes, labels)


def features_of(picture: np.ndarray) -> Memory:
    """Frozen random features: each patch through a random layer, as a tower would give, and again through another."""
    side = PIXELS // PATCH
    patches = torch.tensor(picture, dtype=torch.float32).reshape(side, PATCH, side, PATCH, 3)
    patches = patches.transpose(1, 2).reshape(side * side, -1)
    weights = torch.Generator().manual_seed(0)
    vision = torch.tanh(patches @ torch.randn(patches.shape[1], HIDDEN, generator=weights) / 8)
    hidden = torch.tanh(vision @ torch.randn(HIDDEN, HIDDEN, generator=weights) / 4)
    prompt = torch.randn(3, HIDDEN, generator=weights)
    image_mask, prompt_mask = torch.ones(side * side, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    return Memory(vision, hidden, prompt, image_mask, prompt_mask, token_centres(side, side))


def objects_of(truths: list[Detections], head: DetectionHead) -> TrueObjects:
    boxes = np.concatenate([xyxy_to_cxcywh(truth.xyxy) for truth in truths]) / PIXELS
    owners = torch.arange(len(truths)).repeat_interleave(torch.tensor([len(truth) for truth in truths]))
    tokens = encode_labels([label for truth in truths for label in truth.labels], TOKENIZER, head.config)
    return TrueObjects(torch.tensor(boxes, dtype=torch.float32), owners, tokens, len(truths))


def layer_of(predictions: Predictions) -> Layer:
    return Layer(predictions.objectness_logits, predictions.boxes, predictions.mask)


def loss_of(head: DetectionHead, outputs: HeadOutputs, objects: TrueObjects, config: DetectionLossConfig):
    layers = [layer_of(one) for one in outputs.layers]
    proposals = None if outputs.proposals is None else layer_of(outputs.proposals)
    sums, matches = detection.totals(layers, objects, config, proposals=proposals)
    tokens = objects.tokens[matches.box]
    logits = head.caption_logits(outputs.states[matches.image, matches.query], tokens, random_embedding())
    sums["captions"] = captions.total(logits, tokens)
    return detection.weighted(sums, detection.counts(objects), config)


def learn(head: DetectionHead, memory: Memory, objects: TrueObjects, steps: int, config: DetectionLossConfig) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(head, head(memory), objects, config).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def ap50(truths: list[Detections], found: list[Detections]) -> float:
    size = (PIXELS, PIXELS)
    truth = coco_ground_truth([(str(i), size, one) for i, one in enumerate(truths, 1)], LABELS)
    results = coco_results([(str(i), one) for i, one in enumerate(found, 1)], LABELS)
    return average_precision(truth, results).map50 or 0.0


@pytest.mark.parametrize("queries", ["learned", "tokens"])
def test_eight_pictures_are_learned_by_heart(queries):
    noise = np.random.default_rng(0)
    pictures, truths = zip(*(draw(noise, count) for count in (1, 2, 0, 1, 3, 2, 1, 2)), strict=True)
    memory, truths = stacked([features_of(picture) for picture in pictures]), list(truths)
    torch.manual_seed(0)
    head = DetectionHead(small_config(queries=queries, width=32, num_queries=8))
    arguments = ([(PIXELS, PIXELS)] * len(truths), random_embedding(), TOKENIZER)
    before = found_objects(head.eval(), head(memory), *arguments, min_objectness=0.01)
    assert ap50(truths, before) < 0.2
    learn(head.train(), memory, objects_of(truths, head), 200, DetectionLossConfig())
    for labels in (None, LABELS):
        found = found_objects(head.eval(), head(memory), *arguments, labels=labels)
        assert ap50(truths, found) == 1.0
        confident = [one.select(one.scores > 0.3) for one in found]
        assert [sorted(one.labels) for one in confident] == [sorted(truth.labels) for truth in truths]
