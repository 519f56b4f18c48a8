"""`boxtune inspect data` as a user types it."""

from __future__ import annotations

import functools
import json

import pytest

from training.runs import write_coco

TINY = "tiny:qwen2_vl"


@pytest.fixture
def inspect_data(cli):
    """Run `boxtune inspect data …` in this process: `(exit code, stdout, stderr)`."""
    return functools.partial(cli, "inspect", "data")


def test_page_sheet_and_json_in_a_folder_of_its_own(inspect_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / "a" / "mine", 4)
    write_coco(tmp_path / "b" / "mine", 5)
    code, out, _ = inspect_data("--data", "a/mine", "--model", TINY, "collator.max_length=40")
    assert code == 0
    assert "4, 0 of them without a box" in out
    assert "tokens of a conversation: median" in out
    assert "4 above collator.max_length=40" in out
    inspect_data("--data", "b/mine", "--model", TINY)
    inspect_data("--data", "a/mine", "--model", TINY)
    folders = sorted(tmp_path.glob("runs/inspect/*"))
    assert [folder.name for folder in folders] == ["mine", "mine-2"]
    assert {file.name for file in folders[0].iterdir()} == {"index.html", "sheet.jpg", "exploration.json"}


def test_json_holds_the_figures(inspect_data, tmp_path):
    write_coco(tmp_path / "mine", 4)
    arguments = ("--data", tmp_path / "mine", "--model", TINY, "--output-dir", tmp_path / "o", "--json")
    code, out, _ = inspect_data(*arguments)
    content = json.loads(out)
    assert code == 0
    assert content["figures"]["splits"][0]["num_images"] == 4
    assert content["lengths"]["num_counted"] == 4
    assert json.loads((tmp_path / "o" / "exploration.json").read_text()) == content


def test_a_painted_set(inspect_data, tmp_path):
    arguments = ("--data", "synthetic:nutrition?n=4&size=128", "--model", TINY, "--output-dir", tmp_path / "o")
    code, out, _ = inspect_data(*arguments)
    assert (code, "empty split" in out) == (0, False)
    code, _, err = inspect_data(*arguments, "--boxes-only")
    assert (code, "reads annotations as they are written" in err) == (2, True)


def test_boxes_only_needs_no_picture(inspect_data, tmp_path):
    write_coco(tmp_path / "mine", 4)
    for picture in (tmp_path / "mine").glob("*.png"):
        picture.unlink()
    code, _, err = inspect_data("--data", tmp_path / "mine", "--output-dir", tmp_path / "o")
    assert (code, "does not exist" in err) == (2, True)
    code, out, err = inspect_data("--data", tmp_path / "mine", "--output-dir", tmp_path / "o", "--boxes-only")
    assert (code, err) == (0, "")
    assert "all: 4 images, 0 of them without a box; 5 boxes" in out
    assert "Not looked for: no picture was opened." in (tmp_path / "o" / "index.html").read_text()


@pytest.mark.parametrize("options", [(), ("--boxes-only",)])
def test_an_empty_val_split_and_an_unused_label_are_told(inspect_data, tmp_path, options):
    folder = write_coco(tmp_path / "mine", 4)
    content = json.loads((folder / "annotations.json").read_text())
    content["categories"].append({"id": 9, "name": "gone"})
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "val.json").write_text(json.dumps(content | {"images": [], "annotations": []}))
    (folder / "annotations.json").unlink()
    output = tmp_path / "o"
    code, out, err = inspect_data("--data", folder, "--model", TINY, "--output-dir", output, *options)
    assert code == 0, err
    assert "empty split: 1, not one box in it, so nothing can be judged there, as in val" in out
    if not options:  # annotations alone do not tell a group of labels from an unused one
        assert "unused: 1, a label without a box: asked for, and never learned, as in gone" in out
    page = (output / "index.html").read_text()
    assert "empty split" in page
    code, out, _ = inspect_data("--data", folder, "--model", TINY, "--output-dir", tmp_path / "t", "--split", "train")
    assert (code, "empty split" in out) == (0, False)


def test_bad_records_are_left_out_and_listed(inspect_data, tmp_path):
    write_coco(tmp_path / "mine", 4)
    (tmp_path / "mine" / "1.png").unlink()
    arguments = ("--data", tmp_path / "mine", "--model", TINY, "--output-dir", tmp_path / "o", "--on-error", "skip")
    code, out, _ = inspect_data(*arguments)
    assert code == 0
    assert "1 bad records left out" in out
    assert "Bad records, left out" in (tmp_path / "o" / "index.html").read_text()
    assert (tmp_path / "o" / "skipped.jsonl").is_file()
