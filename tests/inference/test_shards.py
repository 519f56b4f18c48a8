"""A work of many shards: cut, done, broken off, gone on with. Ray itself is in test_ray_engine.py."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxtune.errors import ConfigError, DataError, SaveError
from boxtune.inference import shards
from boxtune.inference.coco_dataset import write_coco_dataset
from boxtune.inference.pictures import find_images
from boxtune.inference.predict import predict_images
from boxtune.inference.shards import (
    FoundPictures,
    asked_of,
    bad_pictures,
    count_found,
    look_at,
    open_work,
)
from inference.test_pictures import torn
from inference.test_predict import RedFinder, photo


@pytest.fixture
def photos(tmp_path):
    """Nine files: two without red, one that is broken, one too thin; names whose order is not that of their text."""
    names = ["b/1.png", "b.png", "b-2.png", "b/c/3.png", "a.JPG", "z.png"]
    for number, name in enumerate(names):
        photo(tmp_path / "in" / name, size=(100 + number, 60), empty=number in (1, 4))
    (tmp_path / "in" / "broken.jpg").write_text("no picture")
    photo(tmp_path / "in" / "thin.png", size=(900, 1), red=(0, 0, 1, 1))
    (tmp_path / "in" / "notes.txt").write_text("not looked at")
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def red_finder(monkeypatch):
    monkeypatch.setattr(shards, "load_detector", lambda *_, **__: RedFinder())


def asked(photos, **options):
    return asked_of("tiny:qwen2_vl", photos, labels=("red",), **{"shard_size": 3, **options})


def begin_or_go_on(folder, asked, on_error="skip"):
    return shards.begin_or_go_on(folder, asked, on_error)


def finished(folder, photos, **options):
    work = begin_or_go_on(folder, asked(photos, **options))
    worker = shards.ShardWorker(str(folder), "cpu", "skip")
    for shard in work.missing:
        worker.do(shard)
    return work


def test_pictures_are_those_of_the_plain_command_in_its_order(photos, tmp_path):
    work = begin_or_go_on(tmp_path / "o", asked(photos))
    listed = [path for shard in range(work.num_shards) for path in work.pictures_of(shard)]
    assert listed == [str(path) for path in find_images(photos)]
    assert [len(work.pictures_of(shard)) for shard in range(work.num_shards)] == [3, 3, 2]
    assert (work.num_pictures, work.num_shards, work.missing) == (8, 3, [0, 1, 2])


@given(st.integers(1, 12))
def test_boxes_do_not_depend_on_shards(tmp_path_factory, size):
    home = tmp_path_factory.mktemp("sizes")
    for number in range(7):
        photo(home / "in" / f"{number}.png", size=(100 + number, 60), empty=number == 3)
    work = finished(home / "o", home / "in", shard_size=size)
    write_coco_dataset(home / "shards.json", FoundPictures(work), ["red"])
    predict_images(RedFinder(), find_images(home / "in"), home / "plain", coco_root=home / "in")
    plain = json.loads((home / "plain" / "coco.json").read_text())
    ours = json.loads((home / "shards.json").read_text())
    assert ours["images"] == plain["images"]
    names = [{one["id"]: one["name"] for one in content["categories"]} for content in (ours, plain)]
    rows = [
        [(row["image_id"], named[row["category_id"]], row["bbox"], row["score"]) for row in content["annotations"]]
        for content, named in zip((ours, plain), names, strict=True)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 12


def test_what_a_shard_holds(photos, tmp_path):
    work = finished(tmp_path / "o", photos, min_score=0.5)
    rows = [row for shard in range(3) for row in pq.read_table(work.shard_file(shard)).to_pylist()]
    by_name = {os.path.basename(row["picture"]): row for row in rows}  # noqa: PTH119
    assert by_name["1.png"] | {"picture": ""} == {
        "picture": "",
        "width": 100,
        "height": 60,
        "status": "ok",
        "reason": "",
        "boxes_xyxy_px": [[10, 20, 40, 50]],
        "labels": ["red"],
        "scores": [0.9],
    }
    assert by_name["b.png"]["status"] == "malformed"
    assert "broken.jpg" in by_name["broken.jpg"]["reason"]
    assert by_name["thin.png"]["status"] == "unreadable"
    assert by_name["thin.png"]["width"] is None
    assert count_found(work) == {"boxes": 4, "ok": 4, "malformed": 2, "unreadable": 2}
    assert len(list(FoundPictures(work))) == 6
    bad = bad_pictures(work)
    assert [(one.id, one.source) for one in bad] == [(str(photos / name),) * 2 for name in ("broken.jpg", "thin.png")]
    assert [one.reason for one in bad] == [by_name["broken.jpg"]["reason"], by_name["thin.png"]["reason"]]


def test_bad_headers_are_refused_before_anything_is_written(photos, tmp_path):
    with pytest.raises(DataError, match=r"2 of 8 pictures cannot be read: .*broken\.jpg.*thin\.png.*--on-error skip"):
        begin_or_go_on(tmp_path / "o", asked(photos), "refuse")
    assert not (tmp_path / "o").exists()


def test_bad_pixels_end_a_shard_and_the_work_goes_on_without_them(tmp_path):
    for name in ("a", "b", "d", "e"):
        photo(tmp_path / "in" / f"{name}.png")
    torn(tmp_path / "in" / "c.png")
    work = begin_or_go_on(tmp_path / "o", asked(tmp_path / "in", shard_size=2), "refuse")
    worker = shards.ShardWorker(str(work.folder), "cpu")
    worker.do(0)
    with pytest.raises(DataError, match=r"c\.png.*cannot be decoded.*--on-error skip"):
        worker.do(1)
    again = begin_or_go_on(tmp_path / "o", asked(tmp_path / "in", shard_size=2))
    assert again.missing == [1, 2]
    finished(tmp_path / "o", tmp_path / "in", shard_size=2)
    assert [one.id for one in bad_pictures(work)] == [str(tmp_path / "in" / "c.png")]


def test_goes_on_where_it_was(photos, tmp_path, monkeypatch):
    folder = tmp_path / "o"
    work = begin_or_go_on(folder, asked(photos))
    shards.ShardWorker(str(folder), "cpu", "skip").do(1)
    first = work.shard_file(1).stat().st_mtime_ns
    (folder / "boxes" / ".00002.parquet.77").write_text("half of a shard, of a worker that was killed")
    photo(photos / "a-new-one.png")  # came since: not in the list, so shards stay what they are
    again = begin_or_go_on(folder, asked(photos))
    assert again.missing == [0, 2]
    assert again.num_pictures == 8
    assert [path.name for path in (folder / "boxes").iterdir()] == ["00001.parquet"]
    finished(folder, photos)
    assert work.shard_file(1).stat().st_mtime_ns == first
    assert again.missing == []


def test_a_shard_that_cannot_be_written_is_not_there(photos, tmp_path, monkeypatch):
    work = begin_or_go_on(tmp_path / "o", asked(photos))

    def full(table, path, **_):
        path.write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="No space"):
            shards.ShardWorker(str(work.folder), "cpu").do(0)
    assert list((work.folder / "boxes").iterdir()) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"min_score": 0.3}, r"min_score 0\.0, not 0\.3"),
        ({"labels": ("blue",)}, r"labels \('red',\), not \('blue',\)"),
        ({"shard_size": 4}, "shard_size 3, not 4"),
        ({"model": "tiny:qwen3_vl"}, "model 'tiny:qwen2_vl'"),
        ({"weights": "ab"}, "another weights"),
    ],
)
def test_work_that_asks_for_something_else_is_refused(photos, tmp_path, other, said):
    begin_or_go_on(tmp_path / "o", asked(photos))
    with pytest.raises(ConfigError, match=said):
        begin_or_go_on(tmp_path / "o", replace(asked(photos), **other))


def test_folders_that_are_not_to_be_written_to(photos, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not an empty folder"):
        begin_or_go_on(tmp_path / "o", asked(photos))
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be written"):
        begin_or_go_on(tmp_path / "file" / "o", asked(photos))


@pytest.mark.parametrize("content", [b"", b"PAR1", b'{"a": 1}'])
def test_a_list_that_is_none(photos, tmp_path, content):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "pictures.parquet").write_bytes(content)
    with pytest.raises(ConfigError, match="not a list that boxtune predict has begun"):
        begin_or_go_on(tmp_path / "o", asked(photos))
    pq.write_table(pa.table({"picture": ["x"]}), tmp_path / "o" / "pictures.parquet")
    with pytest.raises(ConfigError, match="not a list that boxtune predict has begun"):
        open_work(tmp_path / "o")


def test_pictures_that_are_not_there_or_have_no_name(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No picture in"):
        begin_or_go_on(tmp_path / "o", asked(tmp_path / "empty"))
    with pytest.raises(DataError, match="No picture or folder"):
        begin_or_go_on(tmp_path / "o", asked(tmp_path / "nowhere"))
    photo(tmp_path / "in" / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(DataError, match="is not UTF-8: rename"):
        begin_or_go_on(tmp_path / "o", asked(tmp_path / "in"))
    assert not (tmp_path / "o").exists()


def test_one_picture(tmp_path):
    path = photo(tmp_path / "in" / "a.png")
    assert [found.file_name for found in FoundPictures(finished(tmp_path / "o", path))] == ["a.png"]


def test_rows_are_in_the_order_asked(tmp_path):
    (tmp_path / "x.png").write_text("no")
    paths = [str(tmp_path / "x.png"), str(photo(tmp_path / "a.png")), str(tmp_path / "gone.png")]
    rows = look_at(RedFinder(), paths, 0.0, "skip")
    assert [row["picture"] for row in rows] == paths
    assert [row["status"] for row in rows] == ["unreadable", "ok", "unreadable"]
