"""Two processes on the CPU against one: the same losses and files, whoever divides the work among them.

All that the two do is one command of torchrun (see `training/in_turn.py`), so that importing is done once.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from boxtune.inference.detector import load_detector
from inference.test_pictures import torn
from training.runs import SHORT, history, in_turn, short_run, weights, write_coco

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[1]
ENGINES = TESTS.parent / "configs" / "processes"
FULL = ("adapter.language=full", "adapter.vision=full", "adapter.merger=full")
LORA = ("adapter.language=lora",)
STEADY = ("trainer.schedule=constant", "trainer.warmup_fraction=0", "evaluation.every=none", "model.device=cpu")
RATES = ("trainer.rates.language=3e-4", "trainer.stability.snapshot_steps=1")
LONG = (*FULL, *RATES, *STEADY, "trainer.max_steps=7", "trainer.save_steps=3", "trainer.save_total_limit=9")
PACKED = (*LORA, *STEADY, "collator.batching=packed", "trainer.max_steps=3")
HEAD = (*FULL, *STEADY, "model.detection_head=true", "trainer.max_steps=3", "evaluation.at_end=true")
HEAD += ("evaluation.decoder=both", "data.val_fraction=0.3")
PHASES = (*FULL, *STEADY, "trainer.phases=[{until: 0.5, factors: {language: 0}}, {until: 1}]", "trainer.max_steps=4")
QUANTIZED = (*LORA, *STEADY, "model.quantize=nf4", "trainer.max_steps=2")
STYLES = {"long": LONG, "packed": PACKED, "head": HEAD, "phases": PHASES, "nf4": QUANTIZED}
ALONE, SHARED = "trainer.per_device_train_batch_size=2", "trainer.per_device_train_batch_size=1"
FSDP = "trainer.fsdp=true"


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", 9)


@pytest.fixture(scope="module")
def one(coco, tmp_path_factory) -> Path:
    """The runs of one process."""
    home = tmp_path_factory.mktemp("one")
    for style, settings in STYLES.items():
        if style != "nf4" or importlib.util.find_spec("bitsandbytes"):
            short_run(coco, home / style, ALONE, *settings)
    return home


def cut(run: Path, copy: Path) -> Path:
    """A run as it was when it was killed after its third step."""
    copy.mkdir(parents=True)
    shutil.copytree(run / "checkpoint-3", copy / "checkpoint-3")
    shutil.copy(run / "checkpoint-3" / "config.yaml", copy)
    return copy


def training(coco: Path, output_dir: Path, *settings: str) -> list[str]:
    return ["train", "--data", str(coco), "--output-dir", str(output_dir), *SHORT, SHARED, *settings]


def predicting(pictures: Path, one: Path, output_dir: str, *more: str) -> list[str]:
    asked = ["--batch-size", "2", "--model", str(one / "head"), "--decoder", "head", "--output-dir", output_dir]
    return ["predict", "--image", str(pictures), *asked, "--coco", *more]


def with_bad_pictures(coco: Path, folder: Path) -> Path:
    """The pictures, some files that are none, and one whose pixels are damaged; each process meets some of them."""
    shutil.copytree(coco, folder)
    for name in ("0-none", "3-none"):
        (folder / f"{name}.png").write_text("no picture")
    torn(folder / "5-torn.png")
    return folder


@pytest.fixture(scope="module")
def two(coco, one, tmp_path_factory) -> Path:
    """The runs of two processes, by FSDP2 and by DDP."""
    home = tmp_path_factory.mktemp("two")
    of_one = cut(one / "long", home / "long-resumed")
    asked = ["--data", str(coco), "--batch-size", "2", "--model"]
    # 4 bits come first: where processes can talk already, transformers writes the tiny model of the second one nowhere
    commands = [training(coco, home / "nf4", *QUANTIZED)] if (one / "nf4").is_dir() else []
    commands += [training(coco, home / style, FSDP, *STYLES[style]) for style in ("long", "packed", "head", "phases")]
    evaluated, predicted = str(home / "evaluated"), str(home / "predicted")
    commands += [
        ["train", "--resume", "--output-dir", str(of_one), SHARED],
        ["evaluate", *asked, str(one / "head"), "--decoder", "both", "--output-dir", evaluated],
        predicting(coco, one, predicted),
        predicting(with_bad_pictures(coco, home / "bad"), one, str(home / "predicted-bad"), "--on-error", "skip"),
    ]
    in_turn(commands, cwd=home)
    return home


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in history(run) if "loss" in row]


def assert_same_run(found: Path, expected: Path) -> None:
    """Losses and weights, but for sums that were added up in another order."""
    torch.testing.assert_close(losses(found), losses(expected), rtol=2e-5, atol=1e-6)
    ours, theirs = weights(found), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        # Adam makes a visible step of the rounding of a gradient that is almost zero, at most its rate times the steps
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=2e-3)
        assert (ours[name] - tensor).abs().mean() < 1e-5


@pytest.mark.parametrize("style", ["long", "packed", "head", "phases"])
def test_divided_weights_learn_as_whole_ones(style, one, two):
    assert_same_run(two / style, one / style)


def test_files_are_those_of_one_process(one, two):
    for style in ("long", "head", "packed"):
        ours, theirs = ({path.name for path in (home / style).iterdir()} for home in (two, one))
        assert ours == theirs
    ours, theirs = ({path.name for path in (home / "long" / "checkpoint-3").iterdir()} for home in (two, one))
    assert ours - theirs == {"rng_state_0.pth", "rng_state_1.pth"}
    assert theirs - ours == {"rng_state.pth"}
    load_detector(str(two / "long"), "cpu")


def test_norms_of_divided_weights(one, two):
    ours, theirs = (history(home / "long") for home in (two, one))
    names = {name for row in theirs for name in row if name.startswith(("grad_norm", "weight_norm", "rate/"))}
    assert {"grad_norm/language", "weight_norm/vision", "rate/language"} <= names
    for name in names:
        found, expected = ([row[name] for row in rows if name in row] for rows in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_a_checkpoint_of_one_goes_on_in_two(one, two):
    assert_same_run(two / "long-resumed", one / "long")


def test_a_checkpoint_of_two_goes_on_in_one(coco, one, two, tmp_path):
    run = cut(two / "long", tmp_path / "run")
    short_run(coco, run, ALONE, *LONG, resume=True)
    assert_same_run(run, one / "long")


def test_4_bits_in_two_processes(one, two):
    pytest.importorskip("bitsandbytes")
    torch.testing.assert_close(losses(two / "nf4"), losses(one / "nf4"), rtol=1e-3, atol=1e-4)


def test_an_evaluation_does_not_know_how_many_made_it(coco, one, two, tmp_path):
    from boxtune.cli.main import app

    asked = ["--batch-size", "2", "--model", str(one / "head")]
    alone = ["evaluate", "--data", str(coco), *asked, "--decoder", "both", "--output-dir", str(tmp_path / "evaluated")]
    app(alone, standalone_mode=False)
    for name in ("answers.jsonl", "ground_truth.json"):
        assert (two / "evaluated" / name).read_text() == (tmp_path / "evaluated" / name).read_text()
    ours, theirs = (json.loads((home / "evaluated" / "predictions.json").read_text()) for home in (two, tmp_path))
    assert [(row["image_id"], row["category_id"]) for row in ours] == [
        (r["image_id"], r["category_id"]) for r in theirs
    ]
    assert theirs
    for key in ("bbox", "score"):
        torch.testing.assert_close([row[key] for row in ours], [row[key] for row in theirs], rtol=1e-4, atol=1e-4)
    figures = [json.loads((home / "evaluated" / "metrics.json").read_text()) for home in (two, tmp_path)]
    assert figures[0]["num_images"] == figures[1]["num_images"] == 9
    assert figures[0]["map"] == pytest.approx(figures[1]["map"], abs=1e-6)
    assert (two / "evaluated" / "report.html").is_file()


def test_pictures_do_not_know_how_many_drew_them(coco, one, two, tmp_path):
    from boxtune.cli.main import app

    app(predicting(coco, one, str(tmp_path / "predicted")), standalone_mode=False)
    ours, theirs = ({path.name for path in (home / "predicted").iterdir()} for home in (two, tmp_path))
    assert ours == theirs
    found, expected = (json.loads((home / "predicted" / "predictions.json").read_text()) for home in (two, tmp_path))
    assert [row["image_id"] for row in found] == [row["image_id"] for row in expected]
    torch.testing.assert_close([r["bbox"] for r in found], [r["bbox"] for r in expected], rtol=1e-4, atol=0.02)


def test_bad_pictures_are_left_out_by_whoever_opens_them(coco, two):
    bad, good = two / "predicted-bad", two / "predicted"
    listed = [json.loads(line)["source"] for line in (bad / "skipped.jsonl").read_text().splitlines()]
    assert [Path(source).name for source in listed] == ["0-none.png", "3-none.png", "5-torn.png"]
    files = [{path.name for path in home.iterdir()} for home in (bad, good)]
    assert files[0] - files[1] == {"skipped.jsonl"}
    images = [json.loads((home / "coco.json").read_text())["images"] for home in (bad, good)]
    assert images[0] == images[1]
    assert len(images[0]) == 9


@pytest.fixture(scope="module")
def zero(coco, one, tmp_path_factory) -> Path:
    """The runs of two processes by DeepSpeed, which come after one another in a process of their own."""
    pytest.importorskip("deepspeed")
    home = tmp_path_factory.mktemp("zero")
    two, three = (f"trainer.deepspeed={ENGINES / f'zero{stage}.json'}" for stage in (2, 3))
    plain = [setting for setting in LONG if "snapshot_steps" not in setting]
    judged = ("evaluation.at_end=true", "data.val_split=train")  # the model that was divided is loaded from its folder
    commands = [training(coco, home / "long", three, *plain), training(coco, home / "head", two, *HEAD)]
    commands += [training(coco, home / "packed", three, *PACKED, *judged)]
    in_turn(commands, cwd=home)
    return home


@pytest.mark.parametrize("style", ["long", "packed", "head"])
def test_zero_learns_as_one_process(style, one, zero):
    assert_same_run(zero / style, one / style)
