"""Whole runs that fail or are refused: on a full disk, by data that breaks, by settings that cannot be."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from boxtune.errors import BoxtuneError, ConfigError, DataError, SaveError
from boxtune.inference.detector import load_detector
from boxtune.models.contract import Contract
from boxtune.training.callbacks.checkpoints import last_checkpoint
from boxtune.training.run import train
from training.runs import interrupt_after, settings, short_run, weights, write_coco


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


# ---- the disk -------------------------------------------------------------------------------------------------------

DISK_FULL = {
    "os": OSError(errno.ENOSPC, "No space left on device"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 1405504 vs 1405392"),
    "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
}


@pytest.mark.parametrize("error", DISK_FULL)
def test_full_disk_leaves_the_last_good_checkpoint(error, coco, tmp_path, monkeypatch):
    real_save, calls = torch.save, []

    def save(content, path, *args, **kwargs):
        if "checkpoint-2" in str(path):
            calls.append(path)
            raise DISK_FULL[error]
        real_save(content, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(SaveError, match=r"the disk is full; the last good checkpoint is .*checkpoint-1:.*--resume"):
            short_run(coco, tmp_path / "o", "trainer.save_steps=1", "trainer.save_total_limit=1")
    assert calls
    assert load_detector(str(tmp_path / "o" / "checkpoint-1")).labels == ("box",)


def test_old_checkpoint_goes_only_when_the_new_one_is_whole(coco, tmp_path, monkeypatch):
    real_save = Contract.save

    def save(self, folder):
        if folder.name == "checkpoint-2":
            raise DISK_FULL["os"]
        real_save(self, folder)

    keep_one = ("trainer.save_steps=1", "trainer.save_total_limit=1")
    with monkeypatch.context() as patch:
        patch.setattr(Contract, "save", save)
        with pytest.raises(SaveError, match="checkpoint-1"):
            short_run(coco, tmp_path / "o", *keep_one)
    assert last_checkpoint(tmp_path / "o") == tmp_path / "o" / "checkpoint-1"
    short_run(coco, tmp_path / "o", *keep_one, resume=True)
    assert [path.name for path in (tmp_path / "o").glob("checkpoint-*")] == ["checkpoint-4"]


# ---- the data -------------------------------------------------------------------------------------------------------


def test_bad_records_are_skipped_and_listed(tmp_path):
    data = write_coco(tmp_path / "c", 4)
    content = json.loads((data / "annotations.json").read_text())
    content["annotations"][0]["bbox"] = [300, 300, 10, 10]
    (data / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="lies outside"):
        short_run(data, tmp_path / "refused")
    result, said = short_run(data, tmp_path / "o", "data.on_error=skip", "trainer.max_steps=1")
    rows = [json.loads(line) for line in (tmp_path / "o" / "skipped-all.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1"]
    assert "1 bad records left out, see" in said
    assert json.loads((result.output_dir / "run.json").read_text())["data"]["num_images"] == 3


def test_judged_on_the_training_images_when_told_so(coco, tmp_path):
    style = ("data.val_split=train", "evaluation.at_end=true", "trainer.max_steps=1")
    result, said = short_run(coco, tmp_path / "o", *style)
    assert "the images it was trained on" in said
    assert result.metrics is not None
    assert result.metrics.num_images == 6
    assert json.loads((tmp_path / "o" / "run.json").read_text())["data"]["num_images"] == 6


def write_pixels_that_break(folder: Path) -> None:
    """A PNG whose header is right and whose pixels are not."""
    path = folder / "2.png"
    data = bytearray(path.read_bytes())
    start = data.index(b"IDAT") + 8
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("num_workers", [0, 1], ids=["here", "in a worker"])
def test_image_that_breaks_when_decoded(num_workers, tmp_path):
    data = write_coco(tmp_path / "c", 3)
    write_pixels_that_break(data)
    with pytest.raises(DataError) as caught:
        short_run(data, tmp_path / "o", f"data.num_workers={num_workers}")
    message = str(caught.value)
    assert "2.png" in message
    assert "Replace the file" in message
    assert "\n" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        pytest.param(
            ["adapter.language=frozen", "adapter.vision=frozen", "adapter.merger=frozen"],
            ConfigError,
            "nothing would be trained",
            id="all frozen",
        ),
        pytest.param(["data.train_split=foo"], DataError, "no splits.*'foo'", id="no such split"),
        pytest.param(
            ["grounding.prompt='In {place}'"], ConfigError, "holds '{place}', but only {labels}", id="a blank"
        ),
        pytest.param(["grounding.prompt='Find all'"], ConfigError, "must hold {labels} exactly once", id="no labels"),
        pytest.param(
            ["grounding.system='<|image_pad|>'"],
            ConfigError,
            "grounding.system holds <.image_pad.>",
            id="no such image",
        ),
        pytest.param(["trainer.optim=adamm"], ConfigError, "adamm is not a valid", id="unknown optimizer"),
        pytest.param(["collator.max_length=20"], DataError, "more tokens than collator.max_length=20", id="too long"),
        pytest.param(["model.device=cuda:77"], ConfigError, "cuda:77|GPU", id="no such device"),
        pytest.param(
            ["collator.batching=packed", "collator.token_budget=20"],
            BoxtuneError,
            "token_budget=20 is",
            id="short rows",
        ),
    ],
)
def test_refused_before_the_first_step(overrides, error, message, coco, tmp_path):
    """The folder is left empty, so that the same command may be given again, mended."""
    with pytest.raises(error, match=message):
        train(settings(coco, tmp_path / "o", *overrides))
    assert not list((tmp_path / "o").glob("*"))


def test_image_of_an_impossible_shape_is_named_before_the_first_step(tmp_path):
    data = write_coco(tmp_path / "c", 2, size=(16100, 80))
    with pytest.raises(BoxtuneError, match=r"image 1: the model takes no image of 16100×80 px.*leave it out"):
        short_run(data, tmp_path / "o")
    assert not (tmp_path / "o" / "config.yaml").exists()


def test_a_finished_run_is_not_trained_further_unless_it_is_made_longer(coco, tmp_path):
    folder = tmp_path / "run"
    done, _ = short_run(coco, folder)
    before = weights(folder)
    with pytest.raises(ConfigError, match=r"is finished: raise trainer\.minutes or trainer\.max_steps"):
        short_run(coco, folder, resume=True)
    with pytest.raises(ConfigError, match=r"is finished: raise"):
        short_run(coco, folder, "trainer.max_steps=3", resume=True)
    assert all(torch.equal(value, weights(folder)[name]) for name, value in before.items())
    longer, _ = short_run(coco, folder, "trainer.max_steps=5", resume=True)
    assert longer.num_steps == done.num_steps + 1


def test_an_unfinished_run_says_where_its_weights_are(coco, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    interrupt_after(2, monkeypatch)
    short_run(coco, folder)
    checkpoint = last_checkpoint(folder)
    with pytest.raises(BoxtuneError, match=rf"unfinished run: use .*{checkpoint.name}, or finish it with .*--resume"):
        load_detector(str(folder), "cpu")
    load_detector(str(checkpoint), "cpu")
