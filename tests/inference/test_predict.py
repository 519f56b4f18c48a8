"""Picture files in, drawn pictures and predictions.json out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from rich.console import Console

from boxtune.detections import Detections
from boxtune.errors import DataError, SaveError
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.detector import Prediction
from boxtune.inference.pictures import find_images, left_out
from boxtune.inference.predict import drawn_names, predict_images


class RedFinder:
    """Finds the red pixels of what it is shown, surely, and the whole picture, unsurely."""

    def predict(self, images: Iterable[Image.Image]) -> Iterator[Prediction]:
        for image in list(images):
            pixels = np.asarray(image.convert("RGB")).astype(int)
            rows, columns = np.nonzero((pixels[..., 0] > 150) & (pixels[..., 1] < 100))
            if not len(rows):
                yield Prediction(DecodeResult("malformed", Detections.empty().with_scores([]), "no"), "?", True)
                continue
            red = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            found = Detections([red, [0, 0, image.width, image.height]], ["red", "picture"], [0.9, 0.3])
            yield Prediction(DecodeResult("ok", found, ""), "…", False)


def photo(path: Path, *, size=(100, 60), red=(10, 20, 40, 50), turned=False, empty=False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    if not empty:
        pixels[red[1] : red[3], red[0] : red[2]] = (220, 0, 0)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    if turned:
        exif[ExifTags.Base.Orientation] = 6
    image.save(path, **({"exif": exif} if turned else {}))
    return path


def predicted(paths, folder, **options) -> list[dict]:
    predict_images(RedFinder(), paths, folder, **options)
    return json.loads((folder / "predictions.json").read_text(encoding="utf-8"))


def test_boxes_and_drawings(tmp_path):
    path = photo(tmp_path / "a.png")
    rows = predicted([path], tmp_path / "o")
    assert rows == [
        {"image_id": str(path), "category": "red", "bbox": [10, 20, 30, 30], "score": 0.9},
        {"image_id": str(path), "category": "picture", "bbox": [0, 0, 100, 60], "score": 0.3},
    ]
    with Image.open(tmp_path / "o" / "a.jpg") as drawn, Image.open(path) as plain:
        assert drawn.size == plain.size
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(plain)).max() > 60
    with Image.open(path) as kept:
        assert kept.getpixel((0, 0)) == (255, 255, 255)  # the user's own file is as it was


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("num_done", [0, 2])
def test_what_was_found_before_an_interruption_is_kept(ending, num_done, tmp_path):
    class Interrupted(RedFinder):
        def predict(self, images):
            for number, found in enumerate(super().predict(images)):
                if number == num_done:
                    raise ending
                yield found

    paths = [photo(tmp_path / f"{number}.png") for number in range(4)]
    said = io.StringIO()
    with pytest.raises(ending):
        predict_images(Interrupted(), paths, tmp_path / "o", console=Console(file=said, width=500))
    if not num_done:
        assert not list((tmp_path / "o").iterdir())
        return
    rows = json.loads((tmp_path / "o" / "predictions.json").read_text())
    assert {row["image_id"] for row in rows} == {str(path) for path in paths[:2]}
    assert "what was found in 2 of 4 pictures" in said.getvalue()


def test_phone_photo_lying_on_its_side(tmp_path):
    """Orientation 6: turned clockwise to be upright; (x, y) goes to (60 − y, x)."""
    path = photo(tmp_path / "phone.tiff", turned=True)
    jpeg = photo(tmp_path / "phone2.jpg", turned=True)
    rows = predicted([path, jpeg], tmp_path / "o", min_score=0.5)
    assert rows[0]["bbox"] == [10, 10, 30, 30]
    assert np.abs(np.array(rows[1]["bbox"]) - [10, 10, 30, 30]).max() <= 2  # JPEG blurs the edge
    with Image.open(tmp_path / "o" / "phone2.jpg") as drawn:
        assert drawn.size == (60, 100)
        assert drawn.getexif().get(ExifTags.Base.Orientation, 1) == 1


@pytest.mark.parametrize(
    ("min_score", "labels"), [(0.0, ["red", "picture"]), (0.3, ["red", "picture"]), (0.31, ["red"]), (1, [])]
)
def test_min_score(min_score, labels, tmp_path):
    rows = predicted([photo(tmp_path / "a.png")], tmp_path / "o", min_score=min_score)
    assert [row["category"] for row in rows] == labels
    assert (tmp_path / "o" / "a.jpg").is_file()


def test_every_picture_gets_a_drawing_of_its_own(tmp_path):
    names = ["1.png", "a/1.png", "b/1.png", "x/a/1.png", "y/a/1.png", "a_1_png.png", "b/1.jpeg", "A/1.PNG"]
    paths = [photo(tmp_path / "in" / name) for name in names]
    rows = predicted(paths, tmp_path / "o")
    drawn = sorted(path.name.casefold() for path in (tmp_path / "o").glob("*.jpg"))
    assert len(set(drawn)) == len(names)
    assert [row["image_id"] for row in rows[::2]] == [str(path) for path in paths]


@pytest.mark.parametrize(
    "name", ["ü ñ 写真.jpg", "a.b.c.png", "with 'quotes\".png", "[brackets].webp", "-dash.bmp", "P.JPEG"]
)
def test_odd_names(name, tmp_path):
    path = photo(tmp_path / "in" / name)
    assert find_images(tmp_path / "in") == [path]
    assert predicted([path], tmp_path / "o")[0]["image_id"] == str(path)
    assert (tmp_path / "o" / drawn_names([path])[0]).is_file()


def test_answers_that_cannot_be_read_are_told(tmp_path):
    said = io.StringIO()
    paths = [photo(tmp_path / "a.png"), photo(tmp_path / "b.png", empty=True)]
    assert len(predicted(paths, tmp_path / "o", console=Console(file=said, width=200))) == 2
    assert "1 of 2 answers could not be read" in said.getvalue()


def test_files_that_cannot_be_read_or_written(tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(DataError, match=r"notes\.png.* is no image"):
        predicted([tmp_path / "notes.png"], tmp_path / "o")
    with pytest.raises(SaveError, match="cannot be written"):
        predicted([photo(tmp_path / "a.png")], tmp_path / "notes.png")


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Two pictures, one whose header is no picture's, one that only fails when its pixels are decoded, one more."""
    from inference.test_pictures import torn

    for name in ("a", "b", "e"):
        photo(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "c.png").write_text("no picture")
    torn(tmp_path / "in" / "d.png")
    return tmp_path / "in"


def test_bad_pictures_are_left_out_and_listed(mixed, tmp_path):
    paths = find_images(mixed)
    before = [left_out("in/0.png", DataError("0.png is bad."))]
    found = predict_images(
        RedFinder(), paths, tmp_path / "o", min_score=0.5, coco_root=mixed, on_error="skip", bad=before
    )
    assert (found.num_boxes, found.num_pictures, len(found.bad)) == (3, 3, 3)
    rows = json.loads((tmp_path / "o" / "predictions.json").read_text())
    assert [row["image_id"] for row in rows] == [str(mixed / f"{name}.png") for name in "abe"]
    assert {path.name for path in (tmp_path / "o").glob("*.jpg")} == {"a.jpg", "b.jpg", "e.jpg"}
    coco = json.loads((tmp_path / "o" / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.png", "e.png"]
    listed = [json.loads(line) for line in (tmp_path / "o" / "skipped.jsonl").read_text().splitlines()]
    assert {row["id"] for row in listed} == {"in/0.png", str(mixed / "c.png"), str(mixed / "d.png")}
    assert all(set(row) == {"id", "source", "reason"} for row in listed)


def test_the_first_bad_picture_ends_it_and_says_how_to_go_on(mixed, tmp_path):
    paths = [mixed / "a.png", mixed / "d.png", mixed / "e.png"]
    with pytest.raises(DataError, match=r"d\.png.*cannot be decoded.*--on-error skip.*another folder"):
        predict_images(RedFinder(), paths, tmp_path / "o")
    assert not (tmp_path / "o" / "predictions.json").exists()
    assert not (tmp_path / "o" / "skipped.jsonl").exists()


def test_no_picture_that_is_left(mixed, tmp_path):
    with pytest.raises(DataError, match=r"^None of 2 pictures can be read: .*c\.png.*d\.png"):
        predict_images(RedFinder(), [mixed / "c.png", mixed / "d.png"], tmp_path / "o", on_error="skip")
    assert len((tmp_path / "o" / "skipped.jsonl").read_text().splitlines()) == 2
