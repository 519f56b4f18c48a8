"""Runs that train nothing but a detection head: their folders hold the head, and name the model beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from boxtune.errors import ModelError
from boxtune.models.detection_head.saving import CONFIG_FILE, WEIGHTS_FILE
from boxtune.models.load import load_model
from boxtune.models.merge import merge_adapter
from boxtune.models.tiny import save_tiny
from training.runs import SHORT, in_processes, interrupt_after, short_run, write_coco
from training.test_head import FROZEN, HEAD, found, head_weights


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", labels=("box", "red thing"))


@pytest.fixture(scope="module")
def whole(coco, tmp_path_factory) -> Path:
    """On a model that is made up and has no files, so that it is saved."""
    folder = tmp_path_factory.mktemp("whole") / "o"
    short_run(coco, folder, *HEAD, *FROZEN)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The same weights, as files."""
    return save_tiny("qwen2_vl", tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def alone(coco, base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "o"
    short_run(coco, folder, *HEAD, *FROZEN, f"model.name={base}")
    return folder


def test_a_head_alone_is_saved_without_its_base(alone, base, whole, coco):
    for folder in (alone, alone / "checkpoint-4"):
        assert [path.name for path in folder.glob("*.safetensors")] == [WEIGHTS_FILE]
        names = {path.name for path in folder.iterdir()}
        assert {CONFIG_FILE, "boxtune.json", "tokenizer.json", "processor_config.json"} <= names
        assert not {"config.json", "training_args.bin"} & names
        assert load_model(str(folder)).base == str(base)
    assert {path.name for path in whole.glob("*.safetensors")} == {WEIGHTS_FILE, "model.safetensors"}
    assert all(torch.equal(tensor, head_weights(whole)[name]) for name, tensor in head_weights(alone).items())
    for decoder in ("head", "text"):
        assert found(alone, coco, decoder) == found(whole, coco, decoder)
        assert found(alone / "checkpoint-4", coco, decoder) == found(whole, coco, decoder)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_head_alone_resumes(coco, base, alone, tmp_path, monkeypatch, earlier):
    """Also from a checkpoint that holds the whole model, as an earlier boxtune wrote it."""
    style = (*HEAD, *FROZEN, f"model.name={base}")
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        if earlier:
            patch.setattr("boxtune.training.run.named_base", lambda _: None)
        short_run(coco, tmp_path / "o", *style)
    assert (tmp_path / "o" / "checkpoint-2" / "model.safetensors").is_file() == earlier
    short_run(coco, tmp_path / "o", *style, resume=True)
    assert [path.name for path in (tmp_path / "o").glob("*.safetensors")] == [WEIGHTS_FILE]
    assert all(torch.equal(tensor, head_weights(alone)[name]) for name, tensor in head_weights(tmp_path / "o").items())


def test_a_head_alone_does_not_resume_beside_other_weights(coco, base, tmp_path, monkeypatch):
    other = shutil.copytree(base, tmp_path / "base")
    style = (*HEAD, *FROZEN, f"model.name={other}")
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        short_run(coco, tmp_path / "o", *style)
    save_tiny("qwen2_vl", other, seed=1)
    with pytest.raises(
        ModelError, match=r"weights of '.*base' are not those that the detection head in .*checkpoint-2"
    ):
        short_run(coco, tmp_path / "o", *style, resume=True)


def test_the_best_of_a_head_alone_is_kept(coco, base, tmp_path, monkeypatch):
    figures = iter([0.1, 0.5, 0.1, 0.1])
    monkeypatch.setattr("boxtune.training.watch.Watch.look", lambda *_: {"eval_map": next(figures)})
    style = ("evaluation.every=1", "evaluation.keep_best=true", "evaluation.watch_images=1", f"model.name={base}")
    result, _ = short_run(coco, tmp_path / "o", *HEAD, *FROZEN, *style)
    assert result.best_step == 2
    best = head_weights(tmp_path / "o" / "checkpoint-2")
    assert all(torch.equal(tensor, best[name]) for name, tensor in head_weights(tmp_path / "o").items())


@pytest.mark.parametrize(
    ("language", "keeps_head"), [("frozen", True), ("lora", True), ("lora", False), ("full", True), ("full", False)]
)
def test_a_head_alone_is_trained_further(coco, base, alone, tmp_path, language, keeps_head):
    style = ("trainer.max_steps=1", "trainer.learning_rate=1e-9", *FROZEN, f"adapter.language={language}")
    headed = f"model.detection_head={str(keeps_head).lower()}"
    _, said = short_run(coco, tmp_path / "o", f"model.name={alone}", *style, headed)
    assert ("is dropped" in said) != keeps_head
    files = {path.name for path in (tmp_path / "o").glob("*.safetensors")}
    of_model = {"frozen": set(), "lora": {"adapter_model.safetensors"}, "full": {"model.safetensors"}}[language]
    assert files == of_model | ({WEIGHTS_FILE} if keeps_head else set())
    assert load_model(str(tmp_path / "o")).base == (str(tmp_path / "o") if language == "full" else str(base))
    if keeps_head:
        for one, other in zip(found(tmp_path / "o", coco), found(alone, coco), strict=True):
            assert one.scores.max() == pytest.approx(other.scores.max(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_makes_a_head_alone_whole(alone, base, coco, tmp_path, dtype):
    assert merge_adapter(alone, tmp_path / "m", dtype=dtype) <= (0 if dtype == torch.float32 else 0.05)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    merged = load_model(str(tmp_path / "m"))
    assert (merged.base, merged.contract.base_of_head) == (str(tmp_path / "m"), None)
    assert all(torch.equal(tensor, head_weights(alone)[name]) for name, tensor in head_weights(tmp_path / "m").items())
    if dtype == torch.float32:
        assert found(tmp_path / "m", coco) == found(alone, coco)
    (alone / "boxtune.json").rename(tmp_path / "kept")
    try:
        with pytest.raises(ModelError, match=r"is an unfinished run: finish it, or merge .*checkpoint-4"):
            merge_adapter(alone, tmp_path / "no")
    finally:
        (tmp_path / "kept").rename(alone / "boxtune.json")


@pytest.mark.slow
def test_a_head_alone_in_two_processes_with_divided_weights(coco, base, tmp_path):
    """FSDP2: the base is not put together for files; one process goes on with them."""
    style = (*HEAD, *FROZEN, f"model.name={base}", "model.device=cpu", "evaluation.every=none")
    train = ("train", "--data", str(coco), "--output-dir", str(tmp_path / "o"), *SHORT, *style)
    batch = ("trainer.per_device_train_batch_size=1", "evaluation.at_end=true", "trainer.fsdp=true")
    in_processes(2, "-m", "boxtune", *train, *batch, "trainer.max_steps=2")
    in_processes(2, "-m", "boxtune", *train, *batch, "trainer.max_steps=3", "--resume")
    short_run(coco, tmp_path / "o", *style, "evaluation.at_end=true", resume=True)
    for folder in (tmp_path / "o", tmp_path / "o" / "checkpoint-3", tmp_path / "o" / "checkpoint-4"):
        assert [path.name for path in folder.glob("*.safetensors")] == [WEIGHTS_FILE]
    assert len(found(tmp_path / "o", coco)) == 6
