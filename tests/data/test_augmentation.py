"""Boxes must follow the pixels of what they surround."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from boxtune.data.augmentation import VISIBLE_SHARE, AugmentedDataset, augment, build_transform, visible
from boxtune.data.dataset import load_dataset
from boxtune.data.sample import Sample
from boxtune.detections import Detections, box_iou


def red_square(box: tuple[int, int, int, int], image_hw: tuple[int, int] = (200, 300)) -> Sample:
    pixels = np.full((*image_hw, 3), 20, np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = (250, 20, 20)
    return Sample("a", Image.fromarray(pixels), Detections([box], ["square"]), "test")


def extent_of_red(image: Image.Image) -> list[int]:
    pixels = np.asarray(image).astype(int)
    rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 1] > 60)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_boxes_follow_the_pixels(strength):
    transform = build_transform(strength)
    checked = 0
    for seed in range(40):
        torch.manual_seed(seed)
        changed = augment(red_square((120, 70, 190, 130)), transform)
        pixels = np.asarray(changed.image).astype(int)
        if len(changed.detections) == 0 or (pixels.max(-1) - pixels.min(-1)).max() < 60:
            continue  # out of sight, or made grey
        assert box_iou([extent_of_red(changed.image)], changed.detections.xyxy)[0, 0] > 0.88
        checked += 1
    assert checked > 25


@pytest.mark.parametrize(("flip", "expected"), [("horizontal", [260, 20, 290, 60]), ("vertical", [10, 140, 40, 180])])
def test_flips(flip, expected):
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        changed = augment(red_square((10, 20, 40, 60)), build_transform("none", (flip,)))
        seen.add(tuple(changed.detections.xyxy[0]))
        assert extent_of_red(changed.image) == list(changed.detections.xyxy[0])
    assert seen == {(10, 20, 40, 60), tuple(expected)}


def test_a_box_is_kept_cut_or_dropped_by_the_share_that_is_left():
    width = 100
    boxes = [[10, 10, 30, 30], [90, 0, 115, 20], [95, 0, 115, 20], [120, 0, 130, 10]]
    left = visible(Detections(boxes, ["inside", "40 %", "25 %", "outside"]), (100, width))
    assert VISIBLE_SHARE == 0.4
    assert left.labels == ("inside", "40 %")
    assert left.xyxy[1].tolist() == [90, 0, 100, 20]


def test_none_changes_nothing_and_seeds_repeat():
    sample = red_square((10, 20, 40, 60))
    same = augment(sample, build_transform("none"))
    assert np.array_equal(np.asarray(same.image), np.asarray(sample.image))
    assert same.detections == sample.detections
    torch.manual_seed(3)
    first = augment(sample, build_transform("strong"))
    torch.manual_seed(3)
    again = augment(sample, build_transform("strong"))
    assert first.detections == again.detections
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))


def test_images_without_boxes_and_data_sets():
    empty = Sample("e", Image.new("RGB", (64, 48)), Detections.empty(), "test")
    assert len(augment(empty, build_transform("strong")).detections) == 0
    dataset = load_dataset("synthetic:nutrition?n=3&size=96", "train")
    changed = AugmentedDataset(dataset, build_transform("light"))
    assert len(changed) == 3
    assert [sample.id for sample in changed[1:]] == [dataset[1].id, dataset[2].id]
    assert changed[0].image_hw == dataset[0].image_hw


def test_a_change_hangs_on_seed_epoch_and_number_alone():
    """So it is the same in any process and order, and after a run was resumed."""
    dataset = load_dataset("synthetic:nutrition?n=3&size=96", "train")
    changed = AugmentedDataset(dataset, build_transform("strong"), seed=4)
    before = torch.get_rng_state()
    first = [np.asarray(changed[index].image) for index in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    again = AugmentedDataset(dataset, build_transform("strong"), seed=4)
    assert all(np.array_equal(np.asarray(again[index].image), first[index]) for index in (2, 0, 1))
    others = [AugmentedDataset(dataset, build_transform("strong"), seed=5), again]
    again.set_epoch(1)
    for other in others:
        assert not any(np.array_equal(np.asarray(other[index].image), first[index]) for index in range(3))
    changed.set_epoch(1)
    assert np.array_equal(np.asarray(changed[1].image), np.asarray(again[1].image))
