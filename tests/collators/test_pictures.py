"""Samples whose pictures are known: not decoded, and never those of another picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxtune.collators.batch import Collator
from boxtune.collators.pictures import NamedPictures
from boxtune.data import records
from boxtune.data.dataset import DetectionDataset, load_dataset
from boxtune.errors import DataError
from boxtune.models.vision_cache import KeptFeatures, VisionCache
from collators.conversations import encoder_of
from training.runs import write_coco


@pytest.fixture
def data(tmp_path) -> DetectionDataset:
    return load_dataset(write_coco(tmp_path / "data", 3))


@pytest.fixture
def cache(tmp_path) -> VisionCache:
    return VisionCache(tmp_path / "cache", "a" * 40)


def keep(pictures: NamedPictures, index: int, fill: float = 1.0) -> None:
    """Features as a tower might give them, for a picture of 80 × 90 px."""
    sample = pictures[index]
    features = KeptFeatures(torch.full((1, 9, 4), fill), (1, 6, 6), sample.image_hw)
    pictures.cache.write(sample.name, features)


def test_a_known_picture_is_not_decoded(data, cache, monkeypatch):
    pictures = NamedPictures(data, cache)
    assert len(pictures) == 3
    before = pictures[0]
    assert before.image is not None
    assert before.kept is None
    keep(pictures, 0)
    monkeypatch.setattr(records, "open_upright_rgb", lambda *_: pytest.fail("it was decoded"))
    after = pictures[0]
    assert after.image is None
    assert after.kept is not None
    plain = (after.id, after.source, after.image_hw, after.detections)
    assert plain == (before.id, before.source, before.image_hw, before.detections)
    assert pictures[:1][0].name == after.name


def test_a_changed_picture_is_another_one(data, cache):
    pictures = NamedPictures(data, cache)
    keep(pictures, 1)
    path = data.records[1].image
    assert isinstance(path, Path)
    content = path.read_bytes()
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert pictures[1].kept is None
    assert np.array_equal(np.array(pictures[1].image), pixels)
    path.write_bytes(content)
    assert pictures[1].kept is not None


def test_pictures_that_are_alike_share_their_features(data, cache):
    pictures = NamedPictures(data, cache)
    keep(pictures, 0)
    first, second = data.records[0].image, data.records[1].image
    assert isinstance(first, Path)
    assert isinstance(second, Path)
    second.write_bytes(first.read_bytes())
    assert pictures[1].kept is not None
    assert pictures[1].id != pictures[0].id


def test_what_is_decoded_is_what_was_named(data, cache, monkeypatch):
    """A file that is replaced between the two readings must not give its features to the old name."""
    path = data.records[0].image
    assert isinstance(path, Path)
    before = np.array(Image.open(path))
    read = records.Record.read

    def read_and_replace(record):
        content = read(record)
        Image.fromarray(255 - before).save(path)
        return content

    monkeypatch.setattr(records.Record, "read", read_and_replace)
    sample = NamedPictures(data, cache)[0]
    assert np.array_equal(np.array(sample.image), before)


def test_a_picture_of_another_size_is_refused_as_ever(data, cache):
    """Known as a picture, but not the one that the boxes were drawn on."""
    pictures = NamedPictures(data, cache)
    path = data.records[0].image
    assert isinstance(path, Path)
    Image.new("RGB", (40, 40)).save(path)
    record = replace(data.records[0], image_hw=(40, 40))
    keep(NamedPictures(replace(data, records=[record]), cache), 0)
    with pytest.raises(DataError, match="has changed its size since it was checked"):
        pictures[0]


def test_a_missing_picture_is_refused_as_ever(data, cache):
    path = data.records[2].image
    assert isinstance(path, Path)
    path.unlink()
    with pytest.raises(DataError, match=r"3\.png' does not exist"):
        NamedPictures(data, cache)[2]


def test_painted_pictures_are_named_by_their_pixels(cache):
    data = load_dataset("synthetic:nutrition?n=2&size=96", "train")
    pictures = NamedPictures(data, cache)
    sample = pictures[0]
    assert sample.image is not None
    assert sample.name == pictures[0].name != pictures[1].name
    cache.write(sample.name, KeptFeatures(torch.zeros(1, 4, 4), (1, 4, 4), sample.image_hw))
    assert pictures[0].kept is not None


def test_damaged_features_are_removed_and_told(data, cache):
    pictures = NamedPictures(data, cache)
    keep(pictures, 0)
    file = cache.path(pictures[0].name)
    file.write_bytes(file.read_bytes()[:-1])
    sample = pictures[0]
    assert sample.kept is None
    assert sample.image is not None
    assert str(file) in sample.damage
    assert not file.exists()
    assert pictures[0].damage == ""


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_a_batch_of_known_and_new_pictures(tiny, data, cache, batching):
    """Tokens, labels and positions are those of a batch of new ones; pixels are those of the new ones alone."""
    _, processor = tiny("qwen2_vl")
    pictures = NamedPictures(data, cache)
    collate = Collator(encoder_of("qwen2_vl", processor, labels=data.labels), batching=batching)
    plain, new = collate([data[i] for i in range(3)]), collate([pictures[i] for i in range(3)])
    assert "vision" not in plain
    assert torch.equal(new["inputs"]["pixel_values"], plain["inputs"]["pixel_values"])
    grid = plain["inputs"]["image_grid_thw"]
    tokens = (grid.prod(1) // 4).tolist()
    sample = pictures[1]
    features = torch.randn(1, tokens[1], 4)
    cache.write(sample.name, KeptFeatures(features, tuple(grid[1].tolist()), sample.image_hw))
    mixed = collate([pictures[i] for i in range(3)])
    for name in plain["inputs"].keys() - {"pixel_values"}:
        found, expected = mixed["inputs"][name], plain["inputs"][name]
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected)), name
    assert torch.equal(mixed["targets"]["labels"], plain["targets"]["labels"])
    patches = plain["inputs"]["pixel_values"].split(grid.prod(1).tolist())
    assert torch.equal(mixed["inputs"]["pixel_values"], torch.cat([patches[0], patches[2]]))
    assert torch.equal(mixed["vision"]["kept"], features)
    known = [(one.is_kept, one.num_tokens, one.grid_thw) for one in mixed["vision"]["pictures"]]
    assert known == [(i == 1, tokens[i], tuple(grid[i].tolist())) for i in range(3)]
