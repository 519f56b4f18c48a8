"""Whole runs with worked examples: what they log and save, that they resume, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from boxtune.config.load import load_config
from boxtune.data.augmentation import AugmentedDataset
from boxtune.data.dataset import load_dataset
from boxtune.data.examples import ExampleDataset
from boxtune.errors import ConfigError, DataError
from boxtune.models.contract import read_contract
from boxtune.training.auto import fit_training
from boxtune.training.sets import augmented, load_data
from training.runs import history, interrupt_after, settings, short_run, weights, write_coco

EXAMPLES = ("data.examples=2", "losses.teacher_weight=0.5", "trainer.max_steps=3")
HEAD = (
    "model.detection_head=true",
    "detection_head.num_queries=5",
    "detection_head.caption_layers=1",
    "detection_head.width=32",
)


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.mark.parametrize("batching", ["padded", "packed"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_both_parts_are_learned_and_logged(coco, tmp_path, family, batching):
    extra = (*EXAMPLES, f"model.name=tiny:{family}", f"collator.batching={batching}", *HEAD)
    short_run(coco, tmp_path / "o", *extra)
    for row in (row for row in history(tmp_path / "o") if "loss" in row):
        assert {"loss_student", "loss_teacher", "loss_box_l1"} <= row.keys()
        assert "loss_language" not in row
    contract = read_contract(tmp_path / "o")
    assert contract is not None
    assert contract.num_examples == 2


def test_the_loss_is_the_weighted_sum_of_both_parts(coco, tmp_path):
    short_run(coco, tmp_path / "o", *EXAMPLES)
    for row in (row for row in history(tmp_path / "o") if "loss" in row):
        assert row["loss"] == pytest.approx(row["loss_student"] + 0.5 * row["loss_teacher"], rel=1e-4)


def test_padded_and_packed_rows_train_the_same(coco, tmp_path):
    for how in ("padded", "packed"):
        short_run(coco, tmp_path / how, *EXAMPLES, f"collator.batching={how}")
    one, other = weights(tmp_path / "padded"), weights(tmp_path / "packed")
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=2e-4, rtol=0)


def test_no_examples_is_as_before(coco, tmp_path):
    """The key alone changes not a bit of a run, and the head's set of terms is the old one."""
    short_run(coco, tmp_path / "a", "trainer.max_steps=2")
    short_run(coco, tmp_path / "b", "trainer.max_steps=2", "data.examples=0")
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())
    assert not any("loss_student" in row for row in history(tmp_path / "a"))


def test_a_resumed_run_sees_the_same_examples(coco, tmp_path, monkeypatch):
    extra = ("data.examples=1", "data.augment=light", "trainer.max_steps=5", "trainer.save_steps=1")
    short_run(coco, tmp_path / "whole", *extra)
    with monkeypatch.context() as patch:
        interrupt_after(4, patch)  # in the second epoch
        short_run(coco, tmp_path / "parted", *extra)
    short_run(coco, tmp_path / "parted", *extra, resume=True)
    losses = [[row["loss"] for row in history(tmp_path / run) if "loss" in row] for run in ("whole", "parted")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parted")
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_examples_are_none_of_the_judged_images(coco, tmp_path):
    config = settings(coco, tmp_path / "o", "data.examples=2", "data.val_fraction=0.4", "evaluation.at_end=true")
    data = load_data(config, Console(quiet=True))
    shown = augmented(config, data.train)
    assert isinstance(shown, ExampleDataset)
    seen = {example.id for sample in shown for example in sample.examples}
    assert data.val is not None
    assert seen <= {one.id for one in data.train}
    assert not seen & {one.id for one in data.val}


def test_examples_are_augmented_where_samples_are(coco, tmp_path):
    plain = settings(coco, tmp_path, "data.examples=1")
    changed = settings(coco, tmp_path, "data.examples=1", "data.augment=light")
    dataset = load_dataset(coco)
    assert augmented(plain, dataset).dataset is dataset
    assert isinstance(augmented(changed, dataset).dataset, AugmentedDataset)
    assert augmented(settings(coco, tmp_path), dataset) is dataset


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        (("data.examples=6", "data.val_fraction=0"), DataError, "lower data.examples to 5"),
        (("data.examples=2", "collator.max_length=64"), DataError, "lower model.max_pixels or data.examples"),
        (("losses.teacher_weight=0",), ConfigError, "losses.teacher_weight=0.0 does nothing without worked examples"),
        (("losses.student_weight=2",), ConfigError, "losses.student_weight=2.0 does nothing without worked examples"),
        (
            ("data.examples=1", "model.vision_cache=cache", "adapter.vision=frozen", "adapter.merger=frozen"),
            ConfigError,
            "data.examples=1 shows several pictures together",
        ),
    ],
)
def test_what_cannot_be_is_refused(coco, tmp_path, overrides, error, says):
    with pytest.raises(error, match=says.replace(".", r"\.")):
        short_run(coco, tmp_path / "o", *overrides)


def test_a_step_in_a_budget_of_time_counts_them(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    sizes = []
    for number in (0, 3):
        config = load_config(None, ["trainer.minutes=15", "model.max_pixels=200704", f"data.examples={number}"])
        config = config.changed("adapter", language="full", vision="full", merger="full")
        fitted = fit_training(config, 9_000_000, 500, torch.device("cpu"))
        sizes.append(fitted.trainer.per_device_train_batch_size)
    assert sizes[0] > sizes[1] >= 2
