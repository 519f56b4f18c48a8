"""Copies, token lengths, and the page of a data set."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from boxtune.cli.inspect_data import free_folder
from boxtune.collators.encode import SampleEncoder
from boxtune.data.conversation import ConversationStyle
from boxtune.data.dataset import load_dataset
from boxtune.inspection.dataset import chosen_samples
from boxtune.inspection.dataset_copies import find_copies
from boxtune.inspection.dataset_explore import explore
from boxtune.inspection.dataset_lengths import token_lengths
from boxtune.inspection.dataset_page import MAX_BYTES, write_dataset_page
from boxtune.models.families import family

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def photos(tmp_path):
    """Two splits; val holds a smaller, brighter, recompressed copy of a picture of train."""
    rng = np.random.default_rng(0)
    split = {"train": [], "val": []}
    for name, number in (("train", 1), ("train", 2), ("val", 3), ("val", 4)):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        picture = small.resize((240, 200), Image.Resampling.BICUBIC)
        if number == 4:
            with Image.open(tmp_path / "1.jpg") as first:
                picture = ImageEnhance.Brightness(first.resize((120, 100))).enhance(1.02)
        picture.save(tmp_path / f"{number}.jpg", quality=60 if number == 4 else 95)
        split[name].append((number, *picture.size))
    for name, images in split.items():
        content = {
            "images": [{"id": n, "file_name": f"{n}.jpg", "width": w, "height": h} for n, w, h in images],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [10, 10, 50, 40]} for n, _, _ in images
            ],
            "categories": [{"id": 1, "name": "box"}, {"id": 2, "name": HOSTILE}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def encoder(tiny):
    _, processor = tiny("qwen2_vl")
    return SampleEncoder(processor, ConversationStyle(family("qwen2_vl").codec, ("box", HOSTILE)), 60)


def test_a_copy_in_another_split_is_found(photos):
    copies = find_copies(load_dataset(photos))
    assert (copies.num_compared, copies.num_across, copies.num_within) == (4, 1, 0)
    pair = copies.pairs[0]
    assert (pair.first, pair.second) == ("train/1", "val/4")
    assert (pair.first_split, pair.second_split) == ("train", "val")
    assert find_copies(load_dataset(photos), limit=2).num_compared == 2


def cups(folder, places, colours):
    """Plain grounds with one painted square each, in one split."""
    folder.mkdir()
    images, boxes = [], []
    for number, ((x, y), colour) in enumerate(zip(places, colours, strict=True), start=1):
        picture = Image.new("RGB", (320, 240), (200, 200, 195))
        picture.paste(colour, (x, y, x + 30, y + 30))
        picture.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 320, "height": 240})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, 30, 30]})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cup"}]}
    (folder / "train.json").write_text(json.dumps(content))
    return load_dataset(folder)


RED, BLUE = (200, 30, 30), (62, 62, 224)  # of one grey


def test_painted_cups_on_a_plain_ground_are_no_copies(tmp_path):
    elsewhere = cups(tmp_path / "elsewhere", [(20, 20), (200, 30), (90, 150)], [RED] * 3)
    assert find_copies(elsewhere).pairs == ()
    assert find_copies(cups(tmp_path / "coloured", [(90, 90)] * 2, [RED, BLUE])).pairs == ()
    assert find_copies(cups(tmp_path / "same", [(90, 90), (90, 90)], [RED, RED])).num_within == 1


@pytest.mark.parametrize("name", ["blood-cells", "trash"])
def test_copies_of_real_pictures_are_found(name, shared_data, tmp_path):
    """Each of eight pictures again: half as large, recompressed, brighter."""
    files = sorted((shared_data / name / "images").iterdir())[:8]
    images = []
    for number, file in enumerate(files, start=1):
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        again = ImageEnhance.Brightness(picture.resize((picture.width // 2, picture.height // 2))).enhance(1.05)
        for copy, (suffix, quality) in ((picture, ("png", None)), (again, ("jpg", 60))):
            copy.save(tmp_path / f"{number}.{suffix}", **({} if quality is None else {"quality": quality}))
            row = {"id": len(images) + 1, "file_name": f"{number}.{suffix}", "width": copy.width, "height": copy.height}
            images.append(row)
    (tmp_path / "train.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    found = {(pair.first, pair.second) for pair in find_copies(load_dataset(tmp_path)).pairs}
    assert {(str(n), str(n + 1)) for n in range(1, 16, 2)} <= found


def test_painted_pictures_are_no_copies():
    copies = find_copies(load_dataset("synthetic:nutrition?n=6&size=96", "train"))
    assert (copies.num_compared, copies.pairs) == (6, ())


def test_lengths_against_the_limit(photos, encoder):
    dataset = load_dataset(photos)
    lengths = token_lengths(dataset, encoder)
    real = [len(SampleEncoder(encoder.processor, encoder.style).sample(sample)) for sample in dataset]
    assert lengths.longest == max(real)
    assert lengths.median == np.median(real)
    assert lengths.num_too_long == sum(length > 60 for length in real) > 0
    assert set(lengths.too_long) <= {record.id for record in dataset.records}


def test_the_page_says_what_the_json_says(photos, encoder, tmp_path):
    dataset = load_dataset(photos)
    exploration = explore(dataset, encoder)
    path = tmp_path / "index.html"
    write_dataset_page(path, exploration, dataset, chosen_samples(dataset, 3), encoder)
    text = path.read_text(encoding="utf-8")
    figures = json.loads(json.dumps(exploration.to_dict()))
    assert f"<b>{sum(split['num_images'] for split in figures['figures']['splits'])}</b>" in text
    assert f"Pairs in different splits: {figures['copies']['num_across']}" in text
    assert f"{figures['lengths']['num_too_long']} are longer than collator.max_length=60" in text
    assert "train/1" in text
    assert text.count('<figure class="item" data-item') == 3
    assert re.search(r"240 × 200 px, as the model sees it \d+ × \d+ px; 1 box", text)
    assert text.count("<script") == 1
    assert not re.search(r"https?:|url\(|@import", text)
    assert len(set(re.findall(r'image id="([^"]+)"', text))) == text.count("<image id=")


def test_large_samples_are_left_out_and_it_says_so(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "coco"
    folder.mkdir()
    Image.fromarray(rng.integers(0, 256, (768, 768, 3), dtype=np.uint8)).save(folder / "a.png")
    content = {
        "images": [{"id": n, "file_name": "a.png", "width": 768, "height": 768} for n in range(40)],
        "annotations": [],
        "categories": [{"id": 1, "name": "box"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    dataset = load_dataset(folder)
    exploration = explore(dataset, max_compared=0)
    write_dataset_page(tmp_path / "index.html", exploration, dataset, chosen_samples(dataset, 40))
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 0.7 * MAX_BYTES < len(text) <= MAX_BYTES
    assert "more pictures were left out to keep the page below 15 MB" in text
    assert "Not looked for" in text


def test_each_data_set_has_its_own_folder(tmp_path):
    def look_at(name: str, data: str):
        folder = free_folder(tmp_path, name, data)
        folder.mkdir(exist_ok=True)
        (folder / "exploration.json").write_text(json.dumps({"data": data}))
        return folder.name

    assert look_at("mine", "a/mine") == "mine"
    assert look_at("mine", "b/mine") == "mine-2"
    assert look_at("mine", "a/mine") == "mine"
    assert look_at("owner/name?x=1", "hub") == "owner-name-x-1"
    assert look_at("../..", "up") == "data"
