"""A data set by its index is the data set by its list: in every format, when files change, and when things go wrong."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import datasets
import numpy as np
import pytest
from filelock import FileLock

from boxtune.data import index, opening
from boxtune.data.convert import convert_dataset
from boxtune.data.dataset import DetectionDataset, load_dataset
from boxtune.data.mapped_records import MappedRecords
from boxtune.errors import DataError

NEVER = 10**9


@pytest.fixture
def cache(tmp_path_factory, monkeypatch) -> Path:
    """The folder of indexes, which every split of one image or more gets."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BOXTUNE_CACHE", str(folder))
    monkeypatch.setattr(opening, "INDEXED_FROM", 1)
    return folder / "index"


@pytest.fixture
def opened_as_list(monkeypatch):
    def opened(*args, **options) -> DetectionDataset:
        with monkeypatch.context() as patch:
            patch.setattr(opening, "INDEXED_FROM", NEVER)
            patch.setattr(index, "open_index", lambda *args: None)
            dataset = load_dataset(*args, **options)
        assert isinstance(dataset.records, list)
        return dataset

    return opened


@pytest.fixture
def rows(tmp_path, put_image):
    """A JSONL folder: `rows(n)` writes n rows with none to three boxes, `change(row)` before it is written."""

    def write(num_rows: int = 40, change=lambda row: row) -> Path:
        for number in range(5):
            put_image(tmp_path / "rows" / "images" / f"{number}.jpg", width=40 + number)
        lines = []
        for number in range(num_rows):
            boxes = [{"bbox_xyxy_px": [1, 2, 10 + box, 20.5], "label": f"kind {box}"} for box in range(number % 4)]
            row = {"id": f"é{number}", "image": f"{number % 5}.jpg", "objects": boxes}
            lines.append(json.dumps(change(row)))
        (tmp_path / "rows" / "train.jsonl").write_text("\n".join(lines))
        return tmp_path / "rows"

    return write


def indexed(*args, **options) -> DetectionDataset:
    dataset = load_dataset(*args, **options)
    assert isinstance(dataset.records, MappedRecords)
    return dataset


def assert_same(one: DetectionDataset, other: DetectionDataset) -> None:
    assert len(one) == len(other)
    for a, b in zip(one.records, other.records, strict=True):
        assert (a.id, a.image_hw, a.source) == (b.id, b.image_hw, b.source)
        assert a.detections == b.detections
        if isinstance(a.image, Path):
            assert a.image == b.image
        else:
            assert a.image.read() == b.image.read()
    names = ("labels", "name", "split", "format", "skipped", "notes")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
    assert one.fingerprint() == other.fingerprint()


@pytest.fixture
def in_format(tmp_path, put_coco, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    datasets.disable_progress_bars()

    def build(name: str) -> Path:
        put_coco(tmp_path / "first" / "train.json")
        put_coco(tmp_path / "first" / "val.json", lambda content: content["annotations"][0].update(iscrowd=1))
        folder = tmp_path / name
        if name == "hub":
            folder.mkdir()
            for split in ("train", "val"):
                columns = {"image": [], "objects": []}
                for record in load_dataset(tmp_path / "first", split).records:
                    columns["image"].append({"bytes": record.image.read_bytes(), "path": None})
                    boxes, labels = record.detections.xyxy.tolist(), list(record.detections.labels)
                    columns["objects"].append({"bbox": boxes, "category": labels})
                features = datasets.Features(
                    image=datasets.Image(),
                    objects={
                        "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                        "category": datasets.List(datasets.Value("string")),
                    },
                )
                table = datasets.Dataset.from_dict(columns, features=features)
                table.to_parquet(folder / f"{split}.parquet")
        elif name == "coco":
            return tmp_path / "first"
        else:
            convert_dataset(tmp_path / "first", name, folder)
        return folder

    return build


@pytest.mark.parametrize("split", ["train", None])
@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "jsonl", "hub"])
def test_an_index_holds_what_the_list_holds(cache, opened_as_list, in_format, name, split, monkeypatch):
    folder = in_format(name)
    spec = f"{folder}?boxes=xyxy_px" if name == "hub" else folder
    expected = opened_as_list(spec, split)
    assert_same(indexed(spec, split), expected)  # made
    monkeypatch.setattr(index, "build_index", lambda *args: pytest.fail("made a second time"))
    again = indexed(spec, split)
    assert_same(again, expected)
    assert [sample.image.tobytes() for sample in again] == [sample.image.tobytes() for sample in expected]


def test_one_index_serves_a_split_alone_and_among_others(cache, put_coco, tmp_path):
    for name in ("train", "val"):
        put_coco(tmp_path / f"{name}.json")
    assert [record.id for record in indexed(tmp_path).records] == ["train/1", "train/2", "val/1", "val/2"]
    assert [record.id for record in indexed(tmp_path, "val").records] == ["1", "2"]
    assert len(list(cache.iterdir())) == 2


def test_a_small_split_beside_a_large_one(cache, rows, opened_as_list, monkeypatch):
    folder = rows(40)
    lines = (folder / "train.jsonl").read_text().splitlines()
    (folder / "val.jsonl").write_text("\n".join(lines[:3]))
    monkeypatch.setattr(opening, "INDEXED_FROM", 20)
    assert isinstance(load_dataset(folder, "val").records, list)
    assert_same(indexed(folder), opened_as_list(folder))


def spoilt(row: dict) -> dict:
    number = int(row["id"][1:])
    if number == 3:
        return {**row, "image": "gone.jpg"}
    if number == 8:
        return {**row, "objects": [{"bbox_xyxy_px": [1, 1, 900, 9], "label": "far"}]}
    if number in (5, 11, 12):
        return {**row, "id": "twice"}
    if number in (14, 15):  # twice, and one of them wrong by itself
        return {**row, "id": "both", **({"objects": 7} if number == 14 else {})}
    return row


def test_bad_records_are_skipped_and_refused_alike(cache, rows, opened_as_list):
    folder = rows(40, spoilt)
    expected = opened_as_list(folder, on_error="skip")
    assert [bad.id for bad in expected.skipped] == ["é3", "twice", "é8", "twice", "twice", "both", "both"]
    for _ in range(2):
        assert_same(indexed(folder, on_error="skip"), expected)
    with pytest.raises(DataError) as by_list:
        opened_as_list(folder)
    with pytest.raises(DataError) as by_index:
        load_dataset(folder)
    assert str(by_index.value) == str(by_list.value)
    assert str(by_list.value).startswith("Data set 'rows' has 7 bad records: train.jsonl, line 4: ")


def test_an_image_that_was_missing_and_has_come(cache, rows, put_image):
    folder = rows(40, spoilt)
    assert len(indexed(folder, on_error="skip").skipped) == 7
    put_image(folder / "images" / "gone.jpg")  # not where it was looked for first
    assert len(indexed(folder, on_error="skip").skipped) == 6


def test_an_image_that_was_broken_and_is_mended(cache, rows, put_image):
    folder = rows(10)
    whole = (folder / "images" / "2.jpg").read_bytes()
    (folder / "images" / "2.jpg").write_bytes(whole[:300])
    assert len(indexed(folder, on_error="skip").skipped) == 2
    (folder / "images" / "2.jpg").write_bytes(whole)
    assert len(indexed(folder).skipped) == 0


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "jsonl", "hub"])
def test_annotations_that_change_are_read_again(cache, in_format, name, opened_as_list):
    folder = in_format(name)
    spec = f"{folder}?boxes=xyxy_px" if name == "hub" else folder
    before = indexed(spec, "train").fingerprint()
    changed = {
        "coco": lambda: replace_text(folder / "train.json", "[1, 2, 10, 20]", "[1, 2, 10, 21]"),
        "jsonl": lambda: replace_text(folder / "train.jsonl", "11.0, 22.0", "11.0, 23.0"),
        "yolo": lambda: (folder / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.1 0.1\n"),
        "voc": lambda: replace_text(folder / "Annotations" / "a.xml", "<xmax>11<", "<xmax>12<"),
        "hub": lambda: shutil.copy(folder / "val.parquet", folder / "train.parquet"),
    }
    changed[name]()
    after = indexed(spec, "train")
    assert after.fingerprint() != before
    assert_same(after, opened_as_list(spec, "train"))


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_image_more_is_a_row_more_in_yolo(cache, in_format, put_image):
    folder = in_format("yolo")
    assert len(indexed(folder, "train")) == 2
    put_image(folder / "images" / "train" / "c.jpg")
    assert len(indexed(folder, "train")) == 3


def test_an_image_that_was_replaced_is_named_and_checked_at_the_next_start(cache, rows, put_image):
    folder = rows(10)
    dataset = indexed(folder)
    image = put_image(folder / "images" / "2.jpg", width=20)
    with pytest.raises(
        DataError, match=rf"^train\.jsonl, line 3: the image '{image}' has changed its size.*start again"
    ):
        dataset[2]
    assert indexed(folder)[2].image_hw == (30, 20)


def test_an_image_that_was_removed_is_named_and_checked_at_the_next_start(cache, rows):
    folder = rows(10)
    dataset = indexed(folder)
    image = folder / "images" / "2.jpg"
    image.unlink()
    with pytest.raises(DataError, match=rf"^train\.jsonl, line 3: Image '{image}' does not exist"):
        dataset[2]
    assert len(indexed(folder, on_error="skip")) == 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "records.arrow").write_bytes(b""),
        lambda folder: (folder / "records.arrow").write_bytes((folder / "records.arrow").read_bytes()[:-40]),
        lambda folder: (folder / "records.arrow").write_bytes(b"\0" * 5000),
        lambda folder: flip(folder / "records.arrow"),
        lambda folder: (folder / "records.arrow").unlink(),
        lambda folder: replace_text(folder / "index.json", "kind 1", "kind 7"),
        lambda folder: (folder / "index.json").unlink(),
        lambda folder: (folder / "index.json").write_text("{}"),
        lambda folder: (folder / "index.json").write_text("[1, 2"),
        lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe\0"),
    ],
)
def test_a_damaged_index_is_made_anew(cache, rows, opened_as_list, damage):
    folder = rows()
    expected = opened_as_list(folder)
    indexed(folder)
    (home,) = cache.iterdir()
    damage(home)
    assert_same(indexed(folder), expected)
    assert [path.name for path in cache.iterdir()] == [home.name]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_cache_that_cannot_be_written_is_told_once_and_done_without(cache, rows, opened_as_list, monkeypatch, capsys):
    folder = rows()
    expected = opened_as_list(folder)
    blocked = cache.parent / "a-file"
    blocked.write_text("no folder")
    monkeypatch.setenv("BOXTUNE_CACHE", str(blocked))
    for _ in range(2):
        assert_same(load_dataset(folder), expected)
    said = capsys.readouterr().err
    assert said.count("No index of") == 1
    assert str(blocked / "index") in said


def test_a_full_disk_leaves_nothing_behind(cache, rows, opened_as_list, monkeypatch):
    folder = rows()
    expected = opened_as_list(folder)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index, "_write_safely", full)
    assert_same(load_dataset(folder), expected)
    assert list(cache.iterdir()) == []


def open_and_count(folder: str) -> tuple[str, str]:
    opening.INDEXED_FROM = 1
    dataset = load_dataset(folder)
    return type(dataset.records).__name__, dataset.fingerprint()


def test_processes_that_make_it_at_once(cache, rows, opened_as_list):
    folder = rows(2000)
    expected = opened_as_list(folder).fingerprint()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(open_and_count, [str(folder)] * 4))
    assert found == [("MappedRecords", expected)] * 4
    assert len(list(cache.iterdir())) == 1


@pytest.fixture
def taken(cache, rows) -> tuple[Path, Path, FileLock]:
    """A data set, the folder of its index (which is away), and the lock of who makes it."""
    folder = rows()
    indexed(folder)
    (made,) = cache.iterdir()
    made.rename(cache.with_name("put-aside"))
    return folder, made, FileLock(cache.with_name("locks") / f"{made.name}.lock")


def test_what_another_is_making_is_waited_for(taken, cache, monkeypatch):
    folder, made, lock = taken
    monkeypatch.setattr(index, "build_index", lambda *_: pytest.fail("made a second time"))
    began, held = threading.Event(), 0.3

    def another() -> None:
        with lock:
            began.set()
            time.sleep(held)
            cache.with_name("put-aside").rename(made)

    thread = threading.Thread(target=another)
    thread.start()
    assert began.wait(10)
    since = time.monotonic()
    assert len(indexed(folder)) == 40
    assert time.monotonic() - since > held / 2
    thread.join()


def test_what_another_did_not_finish_is_made(taken, opened_as_list):
    folder, _, lock = taken
    expected = opened_as_list(folder).fingerprint()
    thread = threading.Thread(target=lambda: (lock.acquire(), time.sleep(0.3), lock.release()))
    thread.start()
    while not lock.is_locked and thread.is_alive():
        time.sleep(0.01)
    assert indexed(folder).fingerprint() == expected
    thread.join()


def test_nobody_waits_for_ever(taken, monkeypatch):
    folder, _, lock = taken
    monkeypatch.setattr(index, "MAX_WAIT_SECONDS", 0.1)
    with lock, pytest.raises(DataError, match=r"Another process has been making the index of .*set BOXTUNE_CACHE"):
        load_dataset(folder)


def test_the_cache_is_bounded(cache, rows, monkeypatch):
    folder = rows()
    indexed(folder)
    (first,) = cache.iterdir()
    os.utime(first, (1, 1))
    unfinished = cache / ".unfinished"
    unfinished.mkdir()
    os.utime(unfinished, (1, 1))
    num_bytes = sum(file.stat().st_size for file in first.iterdir())
    monkeypatch.setattr(index, "MAX_BYTES", int(1.5 * num_bytes))
    rows(41)
    indexed(folder)
    left = list(cache.iterdir())
    assert len(left) == 1
    assert first not in left


def test_use_keeps_an_index_from_being_the_oldest(cache, rows):
    folder = rows()
    indexed(folder)
    (home,) = cache.iterdir()
    os.utime(home, (1, 1))
    indexed(folder)
    assert time.time() - home.stat().st_mtime < 100


def test_where_indexes_lie(monkeypatch):
    monkeypatch.setenv("BOXTUNE_CACHE", "/somewhere")
    assert index.cache_folder() == Path("/somewhere/index")
    monkeypatch.delenv("BOXTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert index.cache_folder() == Path("/caches/boxtune/index")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert index.cache_folder() == Path.home() / ".cache" / "boxtune" / "index"


def test_parts_of_it_are_those_of_the_list(cache, rows, opened_as_list):
    folder = rows(300)
    mapped, listed = indexed(folder), opened_as_list(folder)
    for one, other in zip(mapped.split_off(0.3, seed=4), listed.split_off(0.3, seed=4), strict=True):
        assert_same(one, other)
    chosen = np.random.default_rng(0).permutation(300)[:50].tolist()
    assert_same(mapped.subset(chosen), listed.subset(chosen))
    assert_same(mapped[7:90:3].subset(chosen[:3][:0]), listed.subset([]))
    assert_same(mapped[250:].subset([3, 1, -1]), listed[250:].subset([3, 1, -1]))


def test_it_is_sent_by_name_and_missed_by_name(cache, rows):
    dataset = indexed(rows(2000))
    content = pickle.dumps(dataset)
    assert len(content) < 5000
    assert_same(pickle.loads(content), dataset)
    shutil.rmtree(cache)
    assert dataset.records[0].id == "é0"  # what is mapped stays
    with pytest.raises(DataError, match=r"was removed while it was in use\. Start again"):
        pickle.loads(content)
