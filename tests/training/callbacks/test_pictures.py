"""The same watched images, at every look, with their boxes."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from PIL import Image

from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.evaluation.evaluate import EvaluatedImage
from boxtune.training.callbacks.pictures import PicturesCallback
from training.runs import events, short_run, write_coco


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (2, 2), (9, 3)])
def test_a_run_shows_the_same_pictures_at_every_look(count, shown, tmp_path):
    write_coco(tmp_path / "coco" / "train", 2)
    write_coco(tmp_path / "coco" / "val", 3, seed=1)
    style = ("trainer.max_steps=2", "evaluation.every=1", "logging.tensorboard=true", f"logging.pictures={count}")
    short_run(tmp_path / "coco", tmp_path / "o", *style)
    found = events(tmp_path / "o")
    tags = found.Tags()["images"]
    assert tags == [f"watched/{number}" for number in range(1, shown + 1)]
    for tag in tags:
        looks = found.Images(tag)
        assert [look.step for look in looks] == [1, 2]
        assert Image.open(io.BytesIO(looks[0].encoded_image_string)).size == (90, 80)


def test_true_and_found_boxes_are_drawn_and_large_images_made_small():
    class Drawn:
        is_drawn = True

        def add_pictures(self, pictures, step):
            self.pictures, self.step = pictures, step

    image = Image.new("RGB", (2000, 1000), (90, 90, 90))
    truth = Detections([[100, 100, 900, 900]], ["table"])
    found = Detections([[1100, 100, 1900, 900]], ["table"], [0.5])
    prediction = SimpleNamespace(result=SimpleNamespace(detections=found))
    watch = SimpleNamespace(
        samples=[Sample("a", image, truth, "here")],
        last=SimpleNamespace(images=[EvaluatedImage("a", (1000, 2000), truth, prediction)], labels=("table",)),
    )
    curves = Drawn()
    PicturesCallback(watch, curves, 4).on_evaluate(
        None, SimpleNamespace(is_world_process_zero=True, global_step=3), None
    )
    picture = curves.pictures["watched/a"]
    assert (picture.size, curves.step) == ((640, 320), 3)
    left, right = picture.crop((0, 0, 320, 320)), picture.crop((320, 0, 640, 320))
    assert all(len(half.getcolors(maxcolors=10**6)) > 5 for half in (left, right))
    assert {r == g == b for _, (r, g, b) in left.getcolors(10**6)} == {True}  # the true box is black and white
