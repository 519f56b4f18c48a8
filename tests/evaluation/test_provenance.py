"""Notes on images that a training has seen, and on labels that it did not teach."""

from __future__ import annotations

import json

import pytest

from boxtune.data.dataset import load_dataset
from boxtune.data.digests import image_digests, pack_digests
from boxtune.errors import DataError
from boxtune.evaluation.provenance import RUN_FILE, seen_images, seen_note
from boxtune.training.callbacks import checkpoints
from training.runs import write_coco


@pytest.fixture
def samples(tmp_path):
    return load_dataset(write_coco(tmp_path / "coco", 5))


def write_run(folder, **data) -> None:
    (folder / RUN_FILE).write_text(json.dumps({"data": data}))


def test_the_file_is_that_of_a_run():
    assert checkpoints.RUN_FILE == RUN_FILE


def test_images_are_known_again(samples, tmp_path):
    assert seen_images(tmp_path, samples) is None
    write_run(tmp_path, images=pack_digests(image_digests(samples.subset([0, 3]))))
    assert seen_images(tmp_path, samples).tolist() == [True, False, False, True, False]
    assert seen_note(seen_images(tmp_path, samples)).startswith("2 of the 5 images were seen in training")
    assert seen_note(seen_images(tmp_path, samples.subset([1, 2]))) is None
    assert seen_note(seen_images(tmp_path, samples.subset([0]))).startswith("Every image was seen in training")


def test_a_run_of_an_earlier_version_knows_only_the_whole(samples, tmp_path):
    write_run(tmp_path, fingerprint=samples.fingerprint(), num_images=5)
    assert seen_images(tmp_path, samples).all()
    assert seen_images(tmp_path, samples.subset([0])) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"data": 3}', '{"data": {"images": "?"}}'])
def test_a_damaged_file_is_named(content, samples, tmp_path):
    (tmp_path / RUN_FILE).write_text(content)
    with pytest.raises(DataError, match=r"run\.json"):
        seen_images(tmp_path, samples)
