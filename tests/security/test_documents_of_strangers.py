"""Endless, twisted and contradictory texts at every door that JSON, YAML or XML comes in by."""

from __future__ import annotations

import base64
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from boxtune.config.load import load_config
from boxtune.data import digests
from boxtune.data.dataset import load_dataset
from boxtune.data.formats import hub
from boxtune.errors import BoxtuneError, DataError
from boxtune.evaluation.coco import score_files
from boxtune.evaluation.precision_recall import read_curves
from boxtune.evaluation.provenance import seen_images
from boxtune.inference.calibrator import read_calibrator
from boxtune.models.contract import read_contract
from boxtune.models.detection_head.saving import read_head_config
from boxtune.models.places import base_of_adapter
from boxtune.models.places import load_config as load_model_config
from boxtune.training.damage import check_saved_config, read_json
from test_documents import LAUGHS, MERGES

JSON = {
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "digits": b"9" * 100_000,
    "key twice": b'{"version": 1, "version": 1}',
    "list": b"[]",
    "null": b"null",
    "number": b"1e999",
    "NaN": b"NaN",
    "text": b'"' + b"x" * 1_000_000 + b'"',
    "half a character": b'{"version": "\\ud800", "model_type": "\\ud800", "base_model_name_or_path": "\\ud800"}',
    "bytes": b"\x80\x04\x95\xff",
    "UTF-16": '{"version": 1}'.encode("utf-16"),
    "numbers for names": b'{"version": 1, "model_type": 1e999, "base_model_name_or_path": -1e999, "peft_type": []}',
    "objects for names": b'{"version": 1, "model_type": {}, "base_model_name_or_path": {}, "labels": {}, "data": {}}',
}
READERS: dict[str, Callable[[Path], object]] = {
    "boxtune.json": lambda path: read_contract(path.parent),
    "calibration.json": lambda path: read_calibrator(path.parent),
    "detection_head.json": lambda path: read_head_config(path.parent),
    "adapter_config.json": lambda path: base_of_adapter(path.parent),
    "config.json": lambda path: load_model_config(str(path.parent)),
    "curves.json": lambda path: read_curves(path.parent),
    "run.json": lambda path: seen_images(path.parent, _dataset(path.parent / "set")),
    "train.json": lambda path: load_dataset(path, format="coco"),
    "train.jsonl": lambda path: load_dataset(path, format="jsonl"),
    "annotations.json": lambda path: score_files(path, path),
}


def _dataset(folder: Path):
    folder.mkdir()
    Image.new("RGB", (8, 6)).save(folder / "a.png")
    (folder / "train.jsonl").write_text('{"image": "a.png", "objects": []}\n')
    return load_dataset(folder)


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_of_json_refuses_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    begin = time.thread_time()
    with pytest.raises(BoxtuneError) as caught:
        READERS[name](tmp_path / name)
    assert name in str(caught.value) or "Unknown model family" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 5000
    assert time.thread_time() - begin < 5


def test_what_a_run_has_left_is_refused_alike(tmp_path):
    for content in (JSON["deep"], JSON["bytes"], JSON["key twice"]):
        (tmp_path / "metrics.json").write_bytes(content)
        with pytest.raises(BoxtuneError, match=r"metrics\.json is missing or damaged"):
            read_json(tmp_path / "metrics.json")


def test_packed_digests_without_end_are_unpacked_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_MOST_BYTES", 1 << 20)
    packed = base64.b64encode(zlib.compress(bytes(100 << 20))).decode()
    (tmp_path / "run.json").write_text(json.dumps({"data": {"images": packed}}))
    dataset = _dataset(tmp_path / "set")
    tracemalloc.start()
    seen = seen_images(tmp_path, dataset)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20
    assert seen is not None
    assert not seen.any()


def coco(**parts: object) -> str:
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 2]}],
            "categories": [{"id": 1, "name": "cat"}],
            **parts,
        }
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    return tmp_path


def annotation(**values: object) -> dict[str, object]:
    return {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 2], **values}


@pytest.mark.parametrize(
    "parts",
    [
        {"annotations": [annotation(bbox=[1, 1, float("inf"), 2])]},
        {"annotations": [annotation(bbox=[float("nan")] * 4)]},
        {"annotations": [annotation(bbox=[10**400, 1, 1, 1])]},
        {"annotations": [annotation(bbox=[1e308, 1e308, 1e308, 1e308])]},
        {"annotations": [annotation(bbox=[[1], [2], [3], [4]])]},
        {"annotations": [annotation(bbox={"x": 1})]},
        {"annotations": [annotation(bbox=[True, True, "3", None])]},
        {"annotations": [annotation(category_id=[1])]},
        {"annotations": [annotation(image_id={"a": 1})]},
        {"annotations": [None, 7, "x", []]},
        {"images": [{"id": 1, "file_name": "a.png", "width": 10**400, "height": 6}]},
        {"images": [{"id": 1, "file_name": ["a.png"]}]},
        {"images": [{"id": 1, "file_name": "a.png\0.jpg"}]},
        {"images": [{"id": [1], "file_name": "a.png"}]},
        {"categories": [{"id": 1, "name": ["cat"]}]},
        {"categories": [{"id": 1, "name": "\ud800"}]},
        {"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]},
    ],
    ids=lambda parts: json.dumps(parts)[:60],
)
def test_twisted_coco_is_refused_in_one_line(folder, parts):
    (folder / "train.json").write_text(coco(**parts))
    with pytest.raises(DataError) as caught:
        load_dataset(folder / "train.json", format="coco")
    assert len(str(caught.value)) < 5000


def test_annotations_that_stand_twice_are_refused_and_not_half_read(folder):
    text = coco()
    (folder / "train.json").write_text(text[:-1] + ', "annotations": []}')
    with pytest.raises(DataError, match="the key 'annotations' stands twice"):
        load_dataset(folder / "train.json", format="coco")


@pytest.mark.parametrize("laughs", [LAUGHS, MERGES], ids=["aliases", "merges"])
@pytest.mark.parametrize("use", ["names: *i", "names: [*i]", "path: *i\nnames: [a]", "nc: *i\nnames: [a]"])
def test_yaml_of_a_billion_laughs(folder, laughs, use):
    (folder / "data.yaml").write_text(f"{laughs}{use}\ntrain: .\n")
    begin = time.thread_time()
    with pytest.raises(DataError, match="aliases"):
        load_dataset(folder)
    config = folder / "config.yaml"
    config.write_text(f"{laughs}model: {{name: *i}}\n")
    for read in (load_config, check_saved_config):
        with pytest.raises(BoxtuneError, match="aliases"):
            read(config)
    assert time.thread_time() - begin < 5


@pytest.mark.parametrize(
    ("entity", "said"),
    [
        (
            "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
            + '<!ENTITY a "ha">',
            "does not parse",
        ),
        ('<!ENTITY j SYSTEM "file:///etc/passwd">', "does not parse"),
        ('<!ENTITY j SYSTEM "http://127.0.0.1:9/x">', "does not parse"),
        ('<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;', "does not parse"),
    ],
    ids=["laughs", "file", "address", "parameter"],
)
def test_xml_entities_are_not_unfolded(folder, entity, said):
    (folder / "a.xml").write_text(
        f"<!DOCTYPE annotation [{entity}]><annotation><filename>a.png</filename><object><name>&j;</name>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>3</ymax></bndbox></object></annotation>"
    )
    begin = time.thread_time()
    with pytest.raises(DataError, match=said):
        load_dataset(folder, format="voc")
    assert time.thread_time() - begin < 5


def test_xml_without_end_is_refused_or_read(folder):
    (folder / "a.xml").write_text("<a>" * 200_000 + "</a>" * 200_000)
    dataset = load_dataset(folder, format="voc")
    assert len(dataset) == 1
    assert len(dataset.detections(0)) == 0


def test_parquet_of_more_rows_than_bytes_is_refused_before_it_is_unpacked(tmp_path):
    rows = 2_000_000
    constant = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array(["x" * 1000]))
    pq.write_table(pa.table({"image": constant, "objects": constant}), tmp_path / "train.parquet", compression="zstd")
    assert (tmp_path / "train.parquet").stat().st_size < rows
    with pytest.raises(DataError, match="which no images do"):
        load_dataset(tmp_path)


def test_parquet_of_packed_nothing_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_LEAST_BOMB_BYTES", 1 << 20)
    table = pa.table({"image": [bytes(1_000_000)] * 9, "objects": [1] * 9})
    path = tmp_path / "train.parquet"
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match="which no images do"):
        load_dataset(tmp_path)
