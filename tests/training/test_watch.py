"""The live model asked about the watched images: figures, and what becomes of too little memory."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from boxtune.data.dataset import load_dataset
from boxtune.errors import ModelError
from boxtune.inference.steps import Steps
from boxtune.models.load import load_model
from boxtune.training.watch import Watch
from training.runs import write_coco


@pytest.fixture(scope="module")
def watch_parts(tmp_path_factory):
    data = load_dataset(write_coco(tmp_path_factory.mktemp("data") / "coco"))
    loaded = load_model("tiny:qwen2_vl", dtype=torch.float32, device=torch.device("cpu"))
    return loaded, data


def watch_of(parts, batch_size: int) -> tuple[Watch, io.StringIO]:
    loaded, data = parts
    loaded.contract.__dict__.update(labels=data.labels, max_new_tokens=3)
    said = io.StringIO()
    return Watch(loaded, data, batch_size, Console(file=said, width=200)), said


def test_figures(watch_parts):
    watch, _ = watch_of(watch_parts, 4)
    figures = watch.look(watch_parts[0].model)
    assert figures["eval_map"] == 0
    # no box found, so no IoU of found boxes
    assert set(figures) == {f"eval_{n}" for n in ("map", "map50", "mean_iou_all", "parse_rate", "seconds")}
    assert all(isinstance(value, float) for value in figures.values())
    assert [image.sample_id for image in watch.last.images] == [record.id for record in watch_parts[1].records]
    assert watch.seconds_spent == watch.last_seconds > 0


@pytest.mark.parametrize(("fits", "tried"), [(2, [5, 2]), (1, [5, 2, 1])])
def test_a_batch_that_does_not_fit_is_halved_for_good(fits, tried, watch_parts, monkeypatch):
    sizes, real = [], Steps.begin

    def begin(self, *questions):
        sizes.append(self.memory.num_slots)
        if sizes[-1] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, *questions)

    monkeypatch.setattr(Steps, "begin", begin)
    watch, said = watch_of(watch_parts, 5)
    watch.look(watch_parts[0].model)
    assert list(dict.fromkeys(sizes)) == tried
    assert f"{fits} images at a time from now on" in said.getvalue()
    sizes.clear()
    watch.look(watch_parts[0].model)
    assert set(sizes) == {fits}


def test_not_even_one_image_fits(watch_parts, monkeypatch):
    def begin(self, *questions):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Steps, "begin", begin)
    with pytest.raises(ModelError, match=r"do not fit into memory beside the training.*evaluation\.every=none"):
        watch_of(watch_parts, 2)[0].look(watch_parts[0].model)
