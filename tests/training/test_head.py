"""Runs with a detection head on tiny models: what they train, save, resume, carry on and refuse."""

from __future__ import annotations

import functools
import json
import signal
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from boxtune.config.load import load_config
from boxtune.data.dataset import load_dataset
from boxtune.errors import ConfigError, ModelError
from boxtune.inference.detector import load_detector
from boxtune.losses.detection import DetectionLossConfig
from boxtune.losses.matching import MatchingCosts
from boxtune.models import compile as compile_module
from boxtune.models.detection_head.saving import CONFIG_FILE, WEIGHTS_FILE, read_head_config
from boxtune.models.load import load_model
from boxtune.models.merge import merge_adapter
from boxtune.models.tiny import build_tiny
from boxtune.training import speed as speed_module
from boxtune.training.head import loss_settings
from training.runs import SHORT, history, in_processes, interrupt_after, short_run, weights, write_coco

HEAD = (
    "model.detection_head=true",
    "detection_head.num_queries=5",
    "detection_head.caption_layers=1",
    "detection_head.width=32",
)
FROZEN = ("adapter.language=frozen", "adapter.vision=frozen", "adapter.merger=frozen")
STYLES = {
    "frozen": FROZEN,
    "full": (),
    "lora": ("adapter.language=lora", "adapter.lora.dropout=0.2", "collator.batching=packed"),
}


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", labels=("box", "red thing"))


@pytest.fixture(scope="module")
def unbroken(coco, tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    return {how: (home / how, *short_run(coco, home / how, *HEAD, *STYLES[how])) for how in STYLES}


def head_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS_FILE)


def found(folder: Path, data: Path, decoder: str = "head"):
    images = [sample.image for sample in load_dataset(data)]
    return [one.result.detections.joined(one.candidates) for one in detector(folder, decoder).predict(images)]


def detector(folder: Path, decoder: str = "head"):
    return load_detector(str(folder), "cpu", decoder=decoder)


# ---- what is trained, and what is saved -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_head_learns_and_what_is_frozen_stays(coco, tmp_path, family):
    style = (*HEAD, *FROZEN, f"model.name=tiny:{family}", "trainer.max_steps=3", "trainer.weight_decay=0")
    result, said = short_run(coco, tmp_path / "o", *style, "trainer.save_steps=1", "trainer.save_total_limit=3")
    assert result.num_steps == 3
    assert "detection_head  full" in said
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "o").state_dict()
    untrained = build_tiny(family)[0].state_dict()
    assert all(torch.equal(tensor, untrained[name]) for name, tensor in plain.items())
    first, last = (head_weights(tmp_path / "o" / f"checkpoint-{step}") for step in (1, 3))
    still = {name for name, tensor in last.items() if torch.equal(tensor, first[name])}
    assert still == {"queries.learned.anchor_logits"}  # for images with fewer tokens than queries


@pytest.mark.parametrize("how", STYLES)
def test_a_folder_opens_without_boxtune(how, unbroken):
    folder = unbroken[how][0]
    if how == "lora":
        PeftModel.from_pretrained(build_tiny("qwen2_vl")[0], str(folder))
    else:
        _, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not report["unexpected_keys"]
        assert not report["missing_keys"]
    assert not any("detection_head" in name for name in weights(folder))


@pytest.mark.parametrize("how", STYLES)
def test_every_checkpoint_holds_the_head_and_it_finds_the_same(how, unbroken, coco):
    folder, result, _ = unbroken[how]
    checkpoint = folder / f"checkpoint-{result.num_steps}"
    assert (checkpoint / CONFIG_FILE).read_text() == (folder / CONFIG_FILE).read_text()
    for one, other in zip(found(folder, coco), found(checkpoint, coco), strict=True):
        assert one == other
        assert len(one)


def test_fitted_settings_are_saved(unbroken):
    folder = unbroken["lora"][0]
    saved = load_config(folder / "config.yaml")
    config = read_head_config(folder)
    assert (saved.detection_head.num_queries, saved.detection_head.decoder_layers) == (5, 2)
    assert all(getattr(config, name) == getattr(saved.detection_head, name) for name in ("width", "queries", "dropout"))
    assert json.loads((folder / "run.json").read_text())["trained"]["detection_head"] > 0


def test_each_term_is_logged(unbroken):
    folder, result, _ = unbroken["full"]
    weight = {"box_l1": 1.0, "box_giou": 0.4, "objectness": 0.4, "captions": 0.2, "language": 1.0}
    weight |= {f"auxiliary_{name}": weight[name] for name in ("box_l1", "box_giou", "objectness")}
    rows = [row for row in history(folder) if "loss" in row]
    assert len(rows) == result.num_steps
    for row in rows:
        total = sum(factor * row[f"loss_{name}"] for name, factor in weight.items())
        assert total == pytest.approx(row["loss"], rel=1e-5)
        assert row["grad_norm/detection_head"] > 0


def test_terms_are_means_over_the_steps_between_two_logs(coco, unbroken, tmp_path):
    short_run(coco, tmp_path / "o", *HEAD, "logging.steps=4")
    every = [row["loss_captions"] for row in history(unbroken["full"][0]) if "loss" in row]
    (together,) = [row["loss_captions"] for row in history(tmp_path / "o") if "loss" in row]
    assert together == pytest.approx(sum(every) / 4, rel=1e-5)


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_accumulated_batches_train_what_one_large_batch_does(coco, tmp_path, batching):
    style = (*HEAD, "adapter.language=lora", f"collator.batching={batching}", "trainer.max_steps=2")
    one = ("trainer.per_device_train_batch_size=1", "trainer.gradient_accumulation_steps=6")
    short_run(coco, tmp_path / "many", *style, *one)
    short_run(coco, tmp_path / "one", *style, "trainer.per_device_train_batch_size=6")
    rows = [[row for row in history(tmp_path / how) if "loss" in row] for how in ("many", "one")]
    for many, whole in zip(*rows, strict=True):
        for name in (name for name in whole if name.startswith(("loss", "grad_norm"))):
            assert many[name] == pytest.approx(whole[name], rel=1e-4), name


# ---- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", STYLES)
def test_resumed_run_equals_an_unbroken_one(how, coco, unbroken, tmp_path, monkeypatch):
    folder, whole, _ = unbroken[how]
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        broken, _ = short_run(coco, tmp_path / "o", *HEAD, *STYLES[how])
    assert (broken.stopped_by, broken.num_steps) == (signal.SIGINT, 2)
    resumed, _ = short_run(coco, tmp_path / "o", *HEAD, *STYLES[how], resume=True)
    assert resumed.losses == whole.losses
    expected = head_weights(folder)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in head_weights(tmp_path / "o").items())


def test_resume_refuses_another_head(coco, unbroken):
    with pytest.raises(ConfigError, match=r"detection_head\.num_queries is 6, .*made with 5"):
        short_run(coco, unbroken["full"][0], *HEAD, "detection_head.num_queries=6", resume=True)


@pytest.mark.parametrize("lost", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_checkpoint_without_its_head_is_named(coco, tmp_path, monkeypatch, lost):
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        short_run(coco, tmp_path / "o", *HEAD, *FROZEN)
    (tmp_path / "o" / "checkpoint-2" / lost).unlink()
    with pytest.raises((ConfigError, ModelError), match=f"checkpoint-2.*{lost}|{lost}.*checkpoint-2"):
        short_run(coco, tmp_path / "o", *HEAD, *FROZEN, resume=True)


def test_the_best_head_is_kept(coco, tmp_path, monkeypatch):
    figures = iter([0.1, 0.5, 0.1, 0.1])
    monkeypatch.setattr("boxtune.training.watch.Watch.look", lambda *_: {"eval_map": next(figures)})
    style = ("evaluation.every=1", "evaluation.keep_best=true", "evaluation.watch_images=1")
    result, _ = short_run(coco, tmp_path / "o", *HEAD, *FROZEN, *style)
    assert result.best_step == 2
    saved, best, last = (head_weights(tmp_path / "o" / name) for name in ("", "checkpoint-2", "checkpoint-4"))
    assert all(torch.equal(tensor, best[name]) for name, tensor in saved.items())
    assert not any(torch.equal(tensor, last[name]) for name, tensor in saved.items() if tensor.ndim > 1)


def test_training_goes_on_with_the_head_of_a_folder(coco, unbroken, tmp_path):
    folder = unbroken["frozen"][0]
    style = (f"model.name={folder}", "trainer.max_steps=1", "trainer.learning_rate=1e-9", *FROZEN)
    _, said = short_run(coco, tmp_path / "on", *style, "model.detection_head=true")
    assert f"Detection head: that of {folder}, trained further." in said
    before, after = head_weights(folder), head_weights(tmp_path / "on")
    assert all(torch.allclose(tensor, before[name], rtol=0, atol=1e-6) for name, tensor in after.items())
    assert read_head_config(tmp_path / "on") == read_head_config(folder)
    with pytest.raises(ConfigError, match=r"detection_head.width is 64, but the head in .* has 32"):
        short_run(coco, tmp_path / "no", *style, "model.detection_head=true", "detection_head.width=64")


def test_a_head_that_is_not_asked_for_is_dropped_aloud(coco, unbroken, tmp_path):
    folder = unbroken["frozen"][0]
    _, said = short_run(coco, tmp_path / "o", f"model.name={folder}", "trainer.max_steps=1")
    assert f"The detection head of {folder} is dropped: model.detection_head=true trains it further." in said
    assert load_model(str(tmp_path / "o")).head is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_keeps_the_head(unbroken, coco, tmp_path, dtype):
    folder = unbroken["lora"][0]
    merge_adapter(folder, tmp_path / "m", dtype=dtype)
    before, after = head_weights(folder), head_weights(tmp_path / "m")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    rounding = 1e-3 if dtype == torch.float32 else 0.1
    for one, other in zip(found(folder, coco), found(tmp_path / "m", coco), strict=True):
        assert one.scores.max() == pytest.approx(other.scores.max(), rel=rounding)


# ---- with the rest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "style",
    [
        pytest.param(("trainer.gradient_checkpointing=true",), id="checkpointing"),
        pytest.param(("model.dtype=bfloat16", "adapter.language=lora"), id="bf16 weights"),
        pytest.param(("model.speedups=[]", "adapter.vision=frozen", "adapter.merger=frozen"), id="no speedups"),
        pytest.param(("model.attention=eager", "collator.batching=padded"), id="eager"),
        pytest.param(("collator.labels=all_text",), id="all text"),
        pytest.param(("detection_head.queries=learned", "detection_head.loss.auxiliary=false"), id="learned queries"),
        pytest.param(("collator.batching=packed", "collator.token_budget=200"), id="rows by tokens"),
        pytest.param(("detection_head.language_layers=1", "adapter.language=lora"), id="behind the first layer"),
        pytest.param(("detection_head.language_layers=0", *FROZEN), id="in front of the language model"),
    ],
)
def test_it_goes_with(style, coco, tmp_path):
    result, _ = short_run(coco, tmp_path / "o", *HEAD, "trainer.max_steps=2", *style)
    assert result.num_steps == 2
    assert all(tensor.dtype == torch.float32 for tensor in head_weights(tmp_path / "o").values())
    assert len(found(tmp_path / "o", coco)) == 6


@pytest.mark.slow
def test_two_processes_train_what_one_does_with_twice_the_batch(tmp_path):
    """One of the images has no object; so a process at times has nothing to match."""
    data = write_coco(tmp_path / "coco", 8)
    content = json.loads((data / "annotations.json").read_text())
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] > 3]
    (data / "annotations.json").write_text(json.dumps(content))
    style = (*HEAD, "adapter.language=lora", "data.val_fraction=0")
    train = ("train", "--data", data, "--output-dir", tmp_path / "two", *SHORT, *style, "model.device=cpu")
    in_processes(2, "-m", "boxtune", *map(str, train), "trainer.per_device_train_batch_size=1")
    short_run(data, tmp_path / "one", "trainer.per_device_train_batch_size=2", *style)
    of_two, of_one = history(tmp_path / "two"), history(tmp_path / "one")
    assert len([row for row in of_two if "loss" in row]) == 4
    for two, one in zip(of_two, of_one, strict=True):
        for name in (name for name in one if name.startswith(("loss", "grad_norm"))):
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-6), name
    expected = head_weights(tmp_path / "one")
    for name, tensor in head_weights(tmp_path / "two").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=2e-3)


def test_it_goes_with_a_base_in_four_bits(coco, tmp_path):
    pytest.importorskip("bitsandbytes")
    result, _ = short_run(coco, tmp_path / "o", *HEAD, "adapter.language=lora", "model.quantize=nf4")
    assert result.num_steps == 4
    assert load_detector(str(tmp_path / "o"), "cpu", quantize="nf4", decoder="head").loaded.head is not None


def test_a_speedup_changes_nothing(coco, unbroken, tmp_path):
    """A frozen tower outside of the model's forward gives the head what it gave inside."""
    short_run(coco, tmp_path / "o", *HEAD, *FROZEN, "model.speedups=[]")
    for fast, slow in zip(history(unbroken["frozen"][0]), history(tmp_path / "o"), strict=True):
        for name in (name for name in fast if name.startswith("loss")):
            assert fast[name] == pytest.approx(slow[name], rel=1e-4)


def test_the_layer_that_is_watched_is_not_compiled(coco, tmp_path, monkeypatch):
    eager = functools.partial(compile_module.compile_blocks, backend="eager")
    monkeypatch.setattr(speed_module, "compile_blocks", eager)
    style = (*HEAD, "detection_head.language_layers=1")
    short_run(coco, tmp_path / "plain", *style, "model.speedups=[]")
    _, said = short_run(coco, tmp_path / "compiled", *style, "model.speedups=[compiled_blocks]")
    assert "blocks compiled" in said
    for fast, slow in zip(history(tmp_path / "compiled"), history(tmp_path / "plain"), strict=True):
        for name in (name for name in fast if name.startswith("loss")):
            assert fast[name] == pytest.approx(slow[name], rel=1e-4)


def test_where_the_head_alone_is_trained_it_names_the_boxes(coco, tmp_path):
    style = ("evaluation.at_end=true", "data.val_fraction=0.34", "evaluation.every=4")
    _, said = short_run(coco, tmp_path / "o", *HEAD, *FROZEN, *style)
    figures = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert figures["score_source"] == "objectness and label of the detection head"
    assert load_config(tmp_path / "o" / "config.yaml").evaluation.decoder == "head"
    assert "watch step" in said


def test_labels_that_the_head_cannot_write_are_refused_before_the_first_step(coco, tmp_path):
    with pytest.raises(ConfigError, match="raise max_label_tokens"):
        short_run(coco, tmp_path / "o", *HEAD, "detection_head.max_label_tokens=2")


def test_losses_of_the_configuration_are_those_of_the_loss():
    """Two lists of defaults that must be one."""
    assert loss_settings(load_config(None)) == DetectionLossConfig()
    changed = load_config(None, ["detection_head.loss.weight=1", "detection_head.loss.matching.box_l1=7"])
    expected = DetectionLossConfig(weight=1, matching=MatchingCosts(box_l1=7))
    assert loss_settings(changed) == expected != DetectionLossConfig()
