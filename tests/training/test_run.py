"""Whole runs on a tiny model: what they leave behind, and that they can be repeated and resumed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from boxtune.config.load import load_config
from boxtune.data.dataset import load_dataset
from boxtune.errors import ConfigError, DataError
from boxtune.evaluation.evaluate import evaluate_model
from boxtune.inference.detector import load_detector
from boxtune.inference.writing import Writer
from boxtune.models.contract import pixel_limits, read_contract
from boxtune.models.tiny import build_tiny
from boxtune.training import auto
from boxtune.training.callbacks.checkpoints import last_checkpoint
from boxtune.training.run import train
from training.runs import SHORT, interrupt_after, short_run, weights, write_coco


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="module")
def evaluated(coco, tmp_path_factory):
    """A run with everything, the evaluation on held-out images included."""
    folder = tmp_path_factory.mktemp("runs") / "evaluated"
    return folder, *short_run(coco, folder, "evaluation.at_end=true", "data.val_fraction=0.34")


@pytest.fixture(scope="module")
def unbroken(coco, tmp_path_factory):
    """Five steps in one go: all weights, and adapters with dropout (which draws random numbers) in packed batches."""
    folder = tmp_path_factory.mktemp("runs")
    return {how: (folder / how, short_run(coco, folder / how, *STYLES[how])[0]) for how in STYLES}


STYLES = {
    "full": ("trainer.max_steps=5",),
    "lora": ("trainer.max_steps=5", "adapter.language=lora", "adapter.lora.dropout=0.2", "collator.batching=packed"),
}


# ---- what a run leaves behind ---------------------------------------------------------------------------------------


def test_folder_of_a_run(coco, evaluated):
    folder, result, said = evaluated
    assert result.num_steps == 4
    assert [step for step, _ in result.losses] == [1, 2, 3, 4]
    record = json.loads((folder / "run.json").read_text())
    assert record["base_model"] == "tiny:qwen2_vl"
    assert record["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert record["data"]["num_images"] == 4
    assert len(record["data"]["fingerprint"]) == 64
    saved = load_config(folder / "config.yaml").model_dump()
    assert (saved["adapter"]["language"], saved["trainer"]["learning_rate"]) == ("full", 2e-4)  # no "auto" is left
    assert "No 'val' split" in said
    assert "2 of the images are held out" in said


def test_figures_of_the_evaluation_at_the_end(evaluated):
    folder, result, _ = evaluated
    figures = json.loads((folder / "metrics.json").read_text())
    assert {"map", "map50", "map75", "mean_iou", "parse_rate"} <= figures.keys()
    assert figures["num_images"] == 2
    assert figures["num_boxes"] == sum(len(r["labels"]) for r in per_image_labels(folder))
    assert result.metrics is not None
    assert result.metrics.to_dict() == figures


@pytest.mark.parametrize(
    "overrides",
    [("model.dtype=auto",), ("model.dtype=bfloat16",), ("model.dtype=auto", "adapter.language=lora")],
    ids=["bf16 steps", "bf16 weights", "adapter"],
)
def test_figures_of_a_run_are_those_of_its_folder(overrides, coco, tmp_path, monkeypatch):
    """Six images, asked in the course of the run, at its end and by `boxtune evaluate`, are answered alike.

    So small a model finds nothing, and its figures alone would agree in any precision.
    """
    monkeypatch.setattr(auto, "_cpu_computes_bf16", lambda: True)
    asked = []
    advance = Writer.advance

    def recorded(writer):
        ready = advance(writer)
        asked.extend(one.answer for one in ready)
        return ready

    monkeypatch.setattr(Writer, "advance", recorded)
    watched = ("evaluation.every=4", "evaluation.watch_split=val", "trainer.learning_rate=0.003")
    folder = tmp_path / "run"
    result, said = short_run(coco, folder, "evaluation.at_end=true", "data.val_split=train", *watched, *overrides)
    assert " in bf16;" in said
    evaluation = evaluate_model(str(folder), load_dataset(str(coco)))
    assert evaluation.metrics == result.metrics
    in_its_course, at_the_end, of_the_folder = (asked[start : start + 6] for start in (0, 6, 12))
    assert len(asked) == 18
    for one, two, three in zip(in_its_course, at_the_end, of_the_folder, strict=True):
        assert one.text == two.text == three.text
        assert two.log_probs == pytest.approx(three.log_probs, abs=5e-5)  # bf16 would differ by 1e-3
        assert one.log_probs == pytest.approx(three.log_probs, abs=1e-4)  # patches are still one product


def per_image_labels(folder: Path) -> list[dict]:
    truth = json.loads((folder / "ground_truth.json").read_text())
    return [{"labels": [a for a in truth["annotations"] if a["image_id"] == image["id"]]} for image in truth["images"]]


def test_the_folder_opens_with_the_trained_weights_and_limits(evaluated):
    folder, *_ = evaluated
    detector = load_detector(str(folder))
    assert detector.labels == ("box",)
    assert detector.max_new_tokens == 12
    assert detector.loaded.contract.max_pixels == 12544
    trained, untrained = detector.loaded.model.state_dict(), build_tiny("qwen2_vl")[0].state_dict()
    # one image's share of the vocabulary is used, so of the embedding only some rows learn; weight decay moves all
    assert all(not torch.equal(trained[name], untrained[name]) for name in untrained)


def test_saved_configuration_starts_the_same_run_again(coco, evaluated, tmp_path):
    folder, result, _ = evaluated
    again = train(load_config(folder / "config.yaml", [f"output_dir={tmp_path / 'o'}", "evaluation.at_end=false"]))
    # without an evaluation nothing would be held out: the same images are, because the file says how many
    assert again.num_steps == result.num_steps
    config = load_config(folder / "config.yaml", [f"output_dir={tmp_path / 'p'}"])
    assert train(config).losses == result.losses
    assert all(torch.equal(a, weights(folder)[name]) for name, a in weights(tmp_path / "p").items())


def test_lora_run_is_a_plain_peft_folder(unbroken):
    folder, _ = unbroken["lora"]
    assert not (folder / "model.safetensors").exists()
    model = PeftModel.from_pretrained(build_tiny("qwen2_vl")[0], str(folder))
    trained = {name: tensor for name, tensor in model.state_dict().items() if ".lora_B." in name}
    assert trained
    assert all(tensor.abs().sum() > 0 for tensor in trained.values())
    assert load_detector(str(folder)).labels == ("box",)


# ---- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", STYLES)
def test_resumed_run_equals_an_unbroken_one(how, coco, unbroken, tmp_path, monkeypatch):
    folder, whole = unbroken[how]
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        broken, said = short_run(coco, tmp_path / "o", *STYLES[how])
    assert broken.stopped_by == signal.SIGINT
    assert f"boxtune train --resume --output-dir {tmp_path / 'o'}" in said
    assert not (tmp_path / "o" / "boxtune.json").exists()
    assert broken.losses == whole.losses[:3]  # the step in hand is done
    resumed, _ = short_run(coco, tmp_path / "o", *STYLES[how], resume=True)
    assert resumed.losses == whole.losses
    assert resumed.stopped_by is None
    expected = weights(folder)
    for name, tensor in weights(tmp_path / "o").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_seconds_of_all_sittings_are_counted(coco, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        broken, _ = short_run(coco, tmp_path / "o")
    resumed, said = short_run(coco, tmp_path / "o", resume=True)
    assert resumed.seconds > broken.seconds
    assert f"Going on from {tmp_path / 'o' / 'checkpoint-3'}." in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(["trainer.learning_rate=1e-3"], "trainer.learning_rate is 0.001.*made with 0.0002", id="rate"),
        pytest.param(["adapter.language=lora"], "adapter.*made with", id="adapter"),
        pytest.param(["collator.labels=all_text"], "collator.labels is all_text", id="labels"),
        pytest.param(["data.max_train_images=3"], "data.max_train_images is 3", id="fewer images"),
        pytest.param(["trainer.optim=sgd"], "trainer.optim is sgd", id="passed on"),
    ],
)
def test_resume_refuses_settings_that_would_be_ignored(overrides, message, coco, unbroken):
    folder, _ = unbroken["full"]
    with pytest.raises(ConfigError, match=message):
        short_run(coco, folder, *STYLES["full"], *overrides, resume=True)


def test_resume_refuses_other_data(unbroken, tmp_path):
    folder, _ = unbroken["full"]
    other = write_coco(tmp_path / "other", seed=5)
    with pytest.raises(DataError, match=r"not what .*checkpoint-5 was trained on"):
        short_run(other, folder, *STYLES["full"], resume=True)


def test_output_folder_in_use_is_refused(coco, evaluated, tmp_path):
    with pytest.raises(ConfigError, match=r"not empty.*--resume"):
        short_run(coco, evaluated[0])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"not empty.*nothing is written over"):
        short_run(coco, tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        short_run(coco, tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_half_written_checkpoint_is_passed_over(tmp_path, coco):
    for step, whole in ((5, True), (10, True), (15, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").touch()
        if whole:
            (folder / "boxtune.json").write_text("{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert last_checkpoint(tmp_path / "nowhere") is None
    with pytest.raises(ConfigError, match="Nothing to resume"):
        short_run(coco, tmp_path / "nowhere", resume=True)


# ---- the arithmetic -------------------------------------------------------------------------------------------------

SGD = ("trainer.optim=sgd", "trainer.learning_rate=0.1", "trainer.max_steps=3", "data.val_fraction=0")


@pytest.fixture(scope="module")
def eight(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "eight", 8)


@pytest.fixture(scope="module")
def batch_of_eight(eight, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "eight"
    return folder, short_run(eight, folder, *SGD, "trainer.per_device_train_batch_size=8")[0]


@pytest.mark.parity
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["per_device_train_batch_size=1", "gradient_accumulation_steps=8"], id="8 × 1"),
        pytest.param(["per_device_train_batch_size=3", "gradient_accumulation_steps=3"], id="3 + 3 + 2"),
    ],
)
def test_accumulation_changes_nothing(overrides, eight, batch_of_eight, tmp_path):
    """Answers differ in length, so that a mean of the batches' means would show."""
    folder, whole = batch_of_eight
    parts, _ = short_run(eight, tmp_path / "o", *SGD, *(f"trainer.{text}" for text in overrides))
    assert [loss for _, loss in parts.losses] == pytest.approx([loss for _, loss in whole.losses], rel=1e-4)
    for name, tensor in weights(tmp_path / "o").items():
        torch.testing.assert_close(tensor, weights(folder)[name], rtol=1e-3, atol=2e-5)


@pytest.mark.parity
def test_packed_and_padded_runs_agree(eight, batch_of_eight, tmp_path):
    folder, padded = batch_of_eight
    style = ("trainer.per_device_train_batch_size=8", "collator.batching=packed")
    packed, _ = short_run(eight, tmp_path / "o", *SGD, *style)
    assert [loss for _, loss in packed.losses] == pytest.approx([loss for _, loss in padded.losses], rel=1e-4)
    for name, tensor in weights(tmp_path / "o").items():
        torch.testing.assert_close(tensor, weights(folder)[name], rtol=1e-3, atol=2e-5)


def test_a_single_step_trains(coco, tmp_path):
    """Its rate is not that of a warm-up's first step, a thousandth."""
    said = ("trainer.max_steps=1", "trainer.learning_rate=0.01", "trainer.weight_decay=0")
    short_run(coco, tmp_path / "o", *said)
    before = build_tiny("qwen2_vl")[0].state_dict()
    after = load_detector(str(tmp_path / "o")).loaded.model.state_dict()
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert moved == pytest.approx(0.01, rel=0.01)  # Adam's first step is the rate


def test_a_budget_for_no_more_than_a_warm_up_is_told(coco, tmp_path):
    timed = ("trainer.max_steps=null", "trainer.minutes=0.0001")
    result, said = short_run(coco, tmp_path / "o", *timed)
    assert result.num_steps == 1
    assert "Steps done in 0.0001 min: only 1, of which the first, a warm-up, trains next to nothing. Raise" in said
    assert "warm-up" not in short_run(coco, tmp_path / "p", *timed, "trainer.warmup_fraction=0")[1]


def test_a_limit_below_the_models_own_takes_that_with_it(coco, tmp_path):
    own = pixel_limits(build_tiny("qwen2_vl")[1])[0]
    _, said = short_run(coco, tmp_path / "o", f"model.max_pixels={own - 1}", "trainer.max_steps=1")
    assert f"model.max_pixels={own - 1} allows no more than the model's own min_pixels, which is lowered" in said
    contract = read_contract(tmp_path / "o")
    assert contract is not None
    assert (contract.min_pixels, contract.max_pixels) == (own - 1, own - 1)


def test_budget_of_time(coco, tmp_path, monkeypatch):
    """With a clock that ticks a fixed time at each look, so that a busy machine changes nothing."""

    class Ticks:
        now = 0.0

        @classmethod
        def monotonic(cls) -> float:
            cls.now += 0.02
            return cls.now

    monkeypatch.setattr("boxtune.training.clock.time", Ticks)
    timed = [text for text in SHORT if "max_steps" not in text]
    config = load_config(
        None, [f"data.path={coco}", f"output_dir={tmp_path / 'o'}", *timed, "trainer.minutes=0.05", "trainer.seed=1"]
    )
    result = train(config)
    assert result.num_steps > 8
    state = json.loads((last_checkpoint(tmp_path / "o") / "trainer_state.json").read_text())
    rates = [row["learning_rate"] for row in state["log_history"] if "learning_rate" in row]
    assert 2.0 < state["stateful_callbacks"]["RunClock"]["attributes"]["used_before"] <= 3.2
    assert max(rates) > 1.6e-4
    assert rates[-1] < 0.1 * max(rates)
    assert sorted(rates[3:], reverse=True) == rates[3:]


def test_loss_that_is_no_number_ends_the_run(coco, tmp_path):
    style = ("trainer.optim=sgd", "trainer.learning_rate=1e38", "trainer.max_grad_norm=1e30")
    before = signal.getsignal(signal.SIGINT)  # a shell that runs the tests in the background has it ignored
    with pytest.raises(ConfigError, match=r"Ended at step \d: \d faults in a row.* or lower trainer.learning_rate"):
        short_run(coco, tmp_path / "o", *style)
    assert signal.getsignal(signal.SIGINT) is before
