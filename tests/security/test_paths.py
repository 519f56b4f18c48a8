"""Names of files in annotations: they stay in the data set's folder, and whatever they hold is text."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from boxtune.data.convert import convert_dataset
from boxtune.data.dataset import load_dataset
from boxtune.errors import DataError


@pytest.fixture
def secret(tmp_path) -> Path:
    """A picture that is no part of the data set in the folder `set`."""
    (tmp_path / "set").mkdir()
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / "secret.png"
    Image.new("RGB", (8, 6), "red").save(path)
    return path


def names_of(secret: Path) -> list[str]:
    return [
        "../other/secret.png",
        "..\\other\\secret.png",
        "a/../../other/secret.png",
        "./.././other/./secret.png",
        "../set/../other/secret.png",
        str(secret),
        f"/{secret}",
    ]


def write_coco(folder: Path, name: str) -> None:
    content = {
        "images": [{"id": 1, "file_name": name}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "train.json").write_text(json.dumps(content))


def write_jsonl(folder: Path, name: str) -> None:
    (folder / "train.jsonl").write_text(json.dumps({"image": name, "objects": []}))


def write_voc(folder: Path, name: str) -> None:
    (folder / "x.xml").write_text(f"<annotation><filename>{name}</filename></annotation>")


def write_deep_voc(folder: Path, name: str) -> None:
    """Deeper down, a name that stays inside seen from its XML would lead out seen from `JPEGImages`."""
    (folder / "JPEGImages").mkdir()
    (folder / "train" / "deep").mkdir(parents=True)
    (folder / "train" / "deep" / "x.xml").write_text(f"<annotation><filename>{name}</filename></annotation>")


def write_yolo_list(folder: Path, name: str) -> None:
    (folder / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
    (folder / "train.txt").write_text(f"{name}\n")


WRITERS = [write_coco, write_jsonl, write_voc, write_deep_voc, write_yolo_list]


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("write", WRITERS)
def test_a_name_that_climbs_out_is_refused(secret, write, number):
    folder = secret.parents[1] / "set"
    write(folder, names_of(secret)[number])
    with pytest.raises(DataError) as caught:
        load_dataset(folder)
    assert "leads out of" in str(caught.value) or "does not exist" in str(caught.value)
    with pytest.raises(DataError):  # and skipping it brings no picture either
        load_dataset(folder, on_error="skip")


@pytest.mark.parametrize("path", ["../../secret.png", "../../../other/secret.png", "../../../../other/secret.png"])
def test_a_name_that_is_inside_from_one_place_leads_out_from_no_other(secret, path):
    folder = secret.parents[1] / "set"
    write_deep_voc(folder, path)
    Image.new("RGB", (8, 6)).save(secret.parents[1] / "secret.png")
    with pytest.raises(DataError):
        load_dataset(folder)


def test_a_linked_picture_is_the_users_own_wish(secret):
    folder = secret.parents[1] / "set"
    (folder / "a.png").symlink_to(secret)
    (folder / "deep").symlink_to(secret.parent)
    for name in ("a.png", "deep/secret.png"):
        write_jsonl(folder, name)
        assert load_dataset(folder)[0].image.getpixel((0, 0)) == (255, 0, 0)


YAML_WAYS_OUT = [
    *("train: ../other", "train: OTHER", "train: [.., .]", "train: ../other/list.txt"),
    *("path: ../other\ntrain: .", "path: OTHER\ntrain: .", "path: /\ntrain: ."),
]


@pytest.mark.parametrize("way", YAML_WAYS_OUT)
def test_a_yolo_folder_does_not_lead_out(secret, way):
    """Naming the folder means the folder; naming the file means what the file says."""
    folder = secret.parents[1] / "set"
    Image.new("RGB", (8, 6)).save(folder / "a.png")
    (secret.parent / "list.txt").write_text("secret.png\n")
    (folder / "data.yaml").write_text(f"{way.replace('OTHER', str(secret.parent))}\nnames: [cat]\n")
    with pytest.raises(DataError, match=rf"leads out of.*name the file itself.*--data {folder}/data\.yaml"):
        load_dataset(folder)


def test_a_yolo_file_that_the_user_names_may_lead_anywhere(secret):
    path = secret.parents[1] / "set" / "data.yaml"
    path.write_text(f"path: {secret.parent}\ntrain: .\nnames: [cat]\n")
    assert [record.id for record in load_dataset(path).records] == ["secret.png"]


def test_of_two_folders_of_a_name_that_inside_is_taken(secret):
    """Roboflow writes `../train/images` for the folder beside the YAML; a neighbour may have that folder, too."""
    folder = secret.parents[1] / "set"
    for home in (folder, folder.parent):
        (home / "train" / "images").mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(home / "train" / "images" / f"{home.name}.png")
    (folder / "data.yaml").write_text("train: ../train/images\nnames: [cat]\n")
    assert [record.id for record in load_dataset(folder).records] == ["train/images/set.png"]


def put_rows(folder: Path, path: str | None, metadata: dict[str, str] | None = None, **more: object) -> None:
    objects = [{"bbox": [[1.0, 1.0, 4.0, 3.0]], "category": ["cat"], **more}]
    image = pa.array([{"bytes": None, "path": path}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": image, "objects": objects})
    pq.write_table(table.replace_schema_metadata(metadata), folder / "train.parquet")


def test_a_row_names_no_file_outside(secret):
    folder = secret.parents[1] / "set"
    for name in (str(secret), "../other/secret.png", "http://127.0.0.1:9/x.png", "file:///etc/passwd", "a\0b"):
        put_rows(folder, name)
        with pytest.raises(DataError, match=r"no part of the data set|is missing"):
            load_dataset(folder)
    Image.new("RGB", (8, 6), "blue").save(folder / "own.png")
    put_rows(folder, "own.png")
    assert load_dataset(folder)[0].image.getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize("kind", ["Image", "Audio", "Video", "Pdf"])
@pytest.mark.parametrize("column", ["objects", "image_id"])
def test_a_column_that_would_be_fetched_is_refused(secret, kind, column):
    """`datasets` decodes such values from wherever their path leads, addresses included."""
    folder = secret.parents[1] / "set"
    hidden = {"_type": kind}
    struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    value = pa.array([{"bytes": None, "path": str(secret)}], struct_type)
    bbox = pa.array([[[1.0, 1.0, 4.0, 3.0]]])
    objects = pa.StructArray.from_arrays([bbox, pa.array([["cat"]]), value], ["bbox", "category", "more"])
    table = pa.table({"image": value, "objects": objects, "image_id": value})
    features = {
        "image": {"_type": "Image"},
        "objects": {
            "bbox": {"_type": "List", "feature": {"_type": "List", "feature": {"_type": "Value", "dtype": "float64"}}},
            "category": {"_type": "List", "feature": {"_type": "Value", "dtype": "string"}},
            "more": {"_type": "Value", "dtype": "null"},
        },
        "image_id": {"_type": "Value", "dtype": "null"},
    }
    plain = {"bytes": {"_type": "Value", "dtype": "binary"}, "path": {"_type": "Value", "dtype": "string"}}
    features["objects"]["more"] = hidden if column == "objects" else plain
    features["image_id"] = hidden if column == "image_id" else plain
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "train.parquet")
    with pytest.raises(DataError, match=f"'{column}' holds what `datasets` would fetch or decode|cannot be loaded"):
        load_dataset(folder)


ODD = [
    *("a\nb.png", "a\tb.png", "a\x1b[31mb.png", "\u202egnp.exe.png", "a\u2028b.png", "%00.png", "~.png", "-rf.png"),
    *("<img src=x onerror=alert(1)>.png", "'; DROP.png", "[red]b[x].png", "{{7*7}}.png", "=1+1.png", "$(id).png"),
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_names(tmp_path, cli, name):
    folder = tmp_path / "set"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / name)
    row = {"image": name, "objects": [{"bbox_xyxy_px": [1, 2, 30, 20], "label": "cat"}]}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    assert load_dataset(folder)[0].image.size == (40, 30)
    code, out, err = cli("inspect", "data", "--data", folder)
    assert code == 0, err
    assert not set(out + err) & {"\x1b", "\u202e"}
    for to in ("coco", "yolo", "voc", "jsonl"):
        convert_dataset(folder, to, tmp_path / to)
        (written,) = (tmp_path / to).rglob("*.png")
        assert written.parent.is_relative_to(tmp_path / to)
        assert re.fullmatch(r"[\w.-]+", written.name)
        assert load_dataset(tmp_path / to)[0].image.size == (40, 30)


def test_a_name_that_is_no_utf8_is_a_bad_record(tmp_path):
    name = os.fsdecode(b"\xe9.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    (tmp_path / "train.jsonl").write_text(json.dumps({"image": name, "objects": []}))
    with pytest.raises(DataError, match="is not UTF-8"):
        load_dataset(tmp_path)


def test_a_device_or_pipe_in_place_of_a_picture_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    write_jsonl(tmp_path, "a.png")
    with pytest.raises(DataError):
        load_dataset(tmp_path)


def test_an_index_that_was_put_in_the_cache_by_someone_else_is_made_anew(tmp_path, monkeypatch, trap):
    from boxtune.data import index, opening
    from boxtune.data.formats.place import parse_place

    monkeypatch.setattr(opening, "INDEXED_FROM", 1)
    monkeypatch.setenv("BOXTUNE_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    write_jsonl(tmp_path, "a.png")
    folder = index.index_folder(parse_place(str(tmp_path)), "jsonl", "train")
    for spoil in (trap.pickled, trap.saved_by_torch, lambda path: path.write_bytes(struct.pack(">Q", 2**63) * 99)):
        for name in ("records.arrow", "index.json"):
            assert len(load_dataset(tmp_path)) == 1
            assert (folder / name).is_file()
            spoil(folder / name)
            assert len(load_dataset(tmp_path)) == 1
    assert not trap.went_off
