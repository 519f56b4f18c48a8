import pickle

import numpy as np
import pytest

from boxtune.data.synthetic import load_synthetic, render_nutrition
from boxtune.errors import DataError


def test_opens_the_number_asked_for_and_paints_on_demand() -> None:
    dataset = load_synthetic("synthetic:nutrition?n=5&seed=2&size=256", "val")
    assert len(dataset) == 5
    assert dataset.labels == ("nutrition-table",)
    assert dataset.split == "val"
    sample = dataset[3]
    assert sample.image.mode == "RGB"
    assert max(sample.image_hw) == 256
    assert sample.image_hw == dataset.image_hw(3)
    image, detections = render_nutrition(int(sample.id), 256)
    assert np.array_equal(np.asarray(sample.image), image)
    assert sample.detections == detections


def test_scenes_have_open_labels() -> None:
    dataset = load_synthetic("synthetic:scenes?n=12&size=224")
    assert len(dataset.labels) > 3
    assert dataset[0].detections == dataset.detections(0)


def test_is_the_same_again_and_travels_to_other_processes() -> None:
    spec = "synthetic:nutrition?n=4&size=224"
    dataset = load_synthetic(spec)
    copy = pickle.loads(pickle.dumps(dataset))
    assert dataset.fingerprint() == load_synthetic(spec).fingerprint() == copy.fingerprint()
    assert np.array_equal(np.asarray(dataset[1].image), np.asarray(copy[1].image))


def test_splits_and_seeds_share_no_picture() -> None:
    ids = [
        record.id
        for seed in (0, 1, 2)
        for split in ("train", "val", "test")
        for record in load_synthetic(f"synthetic:nutrition?n=10&seed={seed}&size=224", split).records
    ]
    assert len(ids) == len(set(ids)) == 90


@pytest.mark.parametrize(
    ("spec", "split", "message"),
    [
        ("synthetic:nutritoin", None, "Did you mean 'nutrition'"),
        ("synthetic:", None, "Known: nutrition, scenes"),
        ("synthetic:nutrition?sead=1", None, "Did you mean 'seed'"),
        ("synthetic:nutrition?n=0", None, "whole number from 1"),
        ("synthetic:nutrition?n=", None, "whole number from 1"),
        ("synthetic:nutrition?n=-3", None, "whole number from 1"),
        ("synthetic:nutrition?size=20", None, "from 64"),
        ("synthetic:scenes?seed=x", None, "whole number"),
        ("synthetic:scenes", "vall", "Did you mean 'val'"),
    ],
)
def test_mistakes_are_named_with_the_nearest(spec: str, split: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_synthetic(spec, split)
