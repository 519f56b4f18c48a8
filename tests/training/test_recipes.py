"""Every recipe on every family: what it says is trained changes, the rest stays bit for bit, in the declared types."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import boxtune
from boxtune.config.recipes import RECIPES, stage_configs
from boxtune.errors import BoxtuneError, ConfigError, ModelError
from boxtune.inference.detector import load_detector
from boxtune.models.areas import bare_name
from boxtune.models.families import family
from boxtune.models.load import load_model
from boxtune.models.merge import merge_adapter
from boxtune.models.quantize import is_4bit
from boxtune.training import run
from boxtune.training.callbacks.audit import AuditCallback
from boxtune.training.callbacks.checkpoints import last_checkpoint
from boxtune.training.recipes import RecipeResult, run_recipe
from boxtune.training.stages import StageMark, write_result
from training.runs import SHORT, settings, weights, write_coco

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
STEPS = ("trainer.max_steps=2", "trainer.learning_rate=1e-2", "trainer.warmup_fraction=0")
HALVED = ("r1-llm-only", "r3-two-stage", "r4-joint")  # hold the language model in 4 bits in some stage
TWO = "r3-two-stage"


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", 4)


@pytest.fixture
def watched(monkeypatch) -> list[tuple[torch.nn.Module, dict[str, torch.Tensor]]]:
    """Each model as it was before its first step, with a copy of its weights."""
    seen: list[tuple[torch.nn.Module, dict[str, torch.Tensor]]] = []
    real = run.check_model

    def check_model(model, *args):
        seen.append((model, {name: p.detach().clone() for name, p in model.named_parameters()}))
        return real(model, *args)

    monkeypatch.setattr(run, "check_model", check_model)
    return seen


def go(name: str, coco: Path, folder: Path, *overrides: str, resume: bool = False) -> tuple[RecipeResult, str]:
    said = io.StringIO()
    config = settings(coco, folder, *STEPS, *overrides)
    return run_recipe(name, config, resume=resume, console=Console(file=said, width=300)), said.getvalue()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("name", RECIPES)
def test_matrix(name, model_type, dtype, coco, tmp_path, watched):
    if any(stage.quantize == "nf4" for stage in RECIPES[name].stages):
        pytest.importorskip("bitsandbytes")
    result, said = go(name, coco, tmp_path / "o", f"model.name=tiny:{model_type}", f"model.dtype={dtype}")
    assert [stage.num_steps for stage in result.stages] == [2] * len(RECIPES[name].stages)
    row = family(model_type)
    for stage, (model, before) in zip(RECIPES[name].stages, watched, strict=True):
        declared = {"language": stage.language, "vision": stage.vision, "merger": stage.merger}
        declared["lm_head"] = "full" if stage.language == "full" else "frozen"
        changed: dict[str, list[bool]] = {area: [] for area in row.areas}
        for parameter_name, parameter in model.named_parameters():
            area = row.area_of(bare_name(parameter_name))
            low_rank = ".lora_" in parameter_name
            trained = declared[area] == "full" or (declared[area] == "lora" and low_rank)
            assert parameter.requires_grad == trained, parameter_name
            moved = not torch.equal(parameter, before[parameter_name])
            assert moved == trained, parameter_name
            changed[area].append(moved)
            check_type(parameter_name, parameter, trained, area, stage.quantize, dtype)
        for area, how in declared.items():
            assert any(changed[area]) == (how != "frozen") or not changed[area], area
        for area in ("language", "vision", "merger"):
            assert f"{area} " in said
    assert "nf4" in said or name not in HALVED
    load_detector(str(result.output_dir), "cpu")


def check_type(name, parameter, trained, area, quantize, dtype) -> None:
    linear = area == "language" and "proj.base_layer.weight" in name
    assert is_4bit(parameter) == (quantize == "nf4" and linear), name
    if trained:
        assert parameter.dtype == torch.float32, name
    elif not is_4bit(parameter):
        rounded = quantize == "nf4" and area == "language" and name.endswith("proj.base_layer.bias")
        assert parameter.dtype == (torch.bfloat16 if rounded else getattr(torch, dtype)), name


YAML = {"r1-llm-only": "qwen2_vl", "r2-vision-only": "qwen2_5_vl", "r3-two-stage": "qwen3_vl", "r4-joint": "qwen2_vl"}


@pytest.mark.parametrize("name", YAML)
def test_shipped_files_run_on_any_family(name, coco, tmp_path):
    pytest.importorskip("bitsandbytes")
    path = Path(__file__).resolve().parents[2] / "configs" / "recipes" / f"{name}.yaml"
    short = [text for text in SHORT if "model.name" not in text]
    told = [f"model.name=tiny:{YAML[name]}", f"data.path={coco}", f"output_dir={tmp_path / 'o'}", *short, *STEPS]
    config = boxtune.load_config(path, told)
    assert config.recipe == name
    assert boxtune.train(config, console=Console(quiet=True)).num_steps == 2


# ---- two stages -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_stages(coco, tmp_path_factory):
    pytest.importorskip("bitsandbytes")
    folder = tmp_path_factory.mktemp("runs") / "two"
    return folder, *go(TWO, coco, folder)


@pytest.fixture
def copied(two_stages, tmp_path) -> Path:
    """The run with its second stage not begun, in a place of its own."""
    folder = tmp_path / "two"
    shutil.copytree(two_stages[0], folder)
    shutil.rmtree(folder / "stage-2-language")
    return folder


def test_the_second_stage_stands_on_the_first(two_stages):
    folder, result, _ = two_stages
    first, second = (folder / "stage-1-vision", folder / "stage-2-language")
    assert [stage.output_dir for stage in result.stages] == [first, second]
    assert result.output_dir == second
    marks = [json.loads((stage / "stage.json").read_text()) for stage in (first, second)]
    assert marks[1]["base_weights"] == marks[0]["weights"] != marks[1]["weights"]
    assert marks[0]["run_id"] == marks[1]["run_id"] == json.loads((folder / "recipe.json").read_text())["run_id"]
    trained = load_model(str(second), quantize="nf4").model
    expected = load_model(str(first)).model.model.visual.state_dict()
    visual = trained.get_base_model().model.visual.state_dict()
    assert all(torch.equal(visual[name], tensor) for name, tensor in expected.items())


def test_merged_stages_keep_the_trained_vision_weights(two_stages, tmp_path):
    folder, *_ = two_stages
    assert merge_adapter(folder / "stage-2-language", tmp_path / "merged") <= 1e-5
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    expected = load_model(str(folder / "stage-1-vision")).model.model.visual.state_dict()
    untrained = load_model("tiny:qwen2_vl").model.model.visual.state_dict()
    for name, tensor in model.model.visual.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
        assert not torch.equal(tensor, untrained[name]), name


def test_a_plain_peft_opens_the_second_stage(two_stages):
    folder, *_ = two_stages
    home = json.loads((folder / "stage-2-language" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(home) == folder / "stage-1-vision"
    PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(home), str(folder / "stage-2-language"))


def test_a_moved_recipe_still_finds_its_first_stage(two_stages, tmp_path, monkeypatch):
    moved = shutil.copytree(two_stages[0], tmp_path / "moved")
    path = moved / "stage-2-language" / "adapter_config.json"
    path.write_text(path.read_text().replace(str(two_stages[0]), "runs/gone"))
    monkeypatch.chdir(tmp_path)
    for name in ("moved/stage-2-language", "moved/stage-2-language/checkpoint-2"):
        if name.endswith("2"):
            shutil.copy(path, moved / "stage-2-language" / "checkpoint-2")
        assert load_model(name).base == str(moved / "stage-1-vision")


def test_the_folder_of_a_recipe_names_its_last_stage(two_stages):
    with pytest.raises(ModelError, match=r"holds the stages of a recipe: name one, the last finished is .*stage-2"):
        load_detector(str(two_stages[0]), "cpu")


def interrupt_in(number: int, steps: int, monkeypatch) -> None:
    """A Ctrl-C in the given stage, before the given step."""
    real = AuditCallback.on_step_begin

    def on_step_begin(self, args, state, control, **kwargs):
        if f"stage-{number}" in args.output_dir and state.global_step == steps:
            signal.raise_signal(signal.SIGINT)
        return real(self, args, state, control, **kwargs)

    monkeypatch.setattr(AuditCallback, "on_step_begin", on_step_begin)


@pytest.mark.parametrize("number", [1, 2])
def test_resume_goes_on_in_the_stage_where_it_was_left(number, coco, two_stages, tmp_path, monkeypatch):
    folder, whole, _ = two_stages
    with monkeypatch.context() as patch:
        interrupt_in(number, 0, patch)
        broken, said = go(TWO, coco, tmp_path / "o")
    assert len(broken.stages) == number
    assert broken.stages[-1].stopped_by == signal.SIGINT
    assert f"--resume --output-dir {tmp_path / 'o'}\n" in said
    first = tmp_path / "o" / "stage-1-vision"
    before = (first / "model.safetensors").stat().st_mtime_ns if number == 2 else None
    resumed, said = go(TWO, coco, tmp_path / "o", resume=True)
    assert [stage.losses for stage in resumed.stages] == [stage.losses for stage in whole.stages]
    assert before in (None, (first / "model.safetensors").stat().st_mtime_ns)
    assert ("Finished before" in said) is (number == 2)
    for stage in ("stage-1-vision", "stage-2-language"):
        expected = weights(folder / stage)
        assert all(torch.equal(t, expected[n]) for n, t in weights(tmp_path / "o" / stage).items())


def test_a_stage_that_left_no_checkpoint_starts_anew(coco, two_stages, copied):
    second = copied / "stage-2-language"
    second.mkdir()
    for name in ("config.yaml", "run.json"):
        shutil.copy(two_stages[0] / "stage-2-language" / name, second)
    result, _ = go(TWO, coco, copied, resume=True)
    assert result.stages[-1].num_steps == 2


def swap_weights(first: Path) -> None:
    tensors = load_file(first / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, first / "model.safetensors", {"format": "pt"})


def other_run(first: Path) -> None:
    path = first / "stage.json"
    path.write_text(path.read_text().replace('"run_id": "', '"run_id": "0'))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FOREIGN = {
    "weights cut": (lambda first: cut(first / "model.safetensors"), "are not those that stage 1 of this run saved"),
    "record cut": (lambda first: cut(first / "run.json"), "run.json is missing or damaged"),
    "state cut": (lambda first: cut(last_checkpoint(first) / "trainer_state.json"), "trainer_state.json is missing or"),
    "other weights": (swap_weights, "are not those that stage 1 of this run saved"),
    "other run": (other_run, "is not the result of stage 1 of this run"),
    "no mark": (lambda first: (first / "stage.json").unlink(), "is not the result of stage 1 of this run"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_the_second_stage_refuses_a_foreign_checkpoint(case, coco, copied):
    change, message = FOREIGN[case]
    change(copied / "stage-1-vision")
    with pytest.raises(ModelError, match=message) as caught:
        go(TWO, coco, copied, resume=True)
    assert "\n" not in str(caught.value)
    assert not (copied / "stage-2-language").exists()


def test_a_second_stage_on_another_first_one_is_refused(coco, two_stages, tmp_path, monkeypatch):
    """Both marks are right by themselves; but the second stage was begun on another result."""
    with monkeypatch.context() as patch:
        interrupt_in(2, 0, patch)
        go(TWO, coco, tmp_path / "o")
    first = tmp_path / "o" / "stage-1-vision"
    swap_weights(first)
    known = json.loads((first / "stage.json").read_text())
    write_result(first, StageMark(TWO, known["run_id"], 1))
    with pytest.raises(ConfigError, match="was trained on another result of the stage before"):
        go(TWO, coco, tmp_path / "o", resume=True)


def test_a_stage_alone_is_not_resumed(coco, two_stages):
    folder, *_ = two_stages
    config = settings(coco, folder / "stage-1-vision", *STEPS, *VISION, "trainer.max_steps=3")
    with pytest.raises(ConfigError, match=rf"is stage 1 of a run of {TWO}: go on .*--resume --output-dir {folder}"):
        boxtune.train(config, resume=True)


VISION = ("adapter.language=frozen", "adapter.vision=full", "adapter.merger=full", "model.quantize=none")


def test_a_finished_stage_is_not_taken_for_one_with_other_settings(coco, copied):
    with pytest.raises(ConfigError, match=r"trainer.learning_rate is 0\.02, but the run in .*stage-1-vision was made"):
        go(TWO, coco, copied, "trainer.learning_rate=0.02", resume=True)


def test_recipe_folders_are_claimed(coco, two_stages, tmp_path):
    with pytest.raises(ConfigError, match=r"not empty.*--resume"):
        go(TWO, coco, two_stages[0])
    with pytest.raises(ConfigError, match=f"holds no run of recipe {TWO}"):
        go(TWO, coco, tmp_path, resume=True)


def test_minutes_are_divided_and_steps_are_not(coco, tmp_path):
    timed = settings(coco, tmp_path, "trainer.max_steps=null", "trainer.minutes=10", f"recipe={TWO}")
    assert [stage.trainer.minutes for stage in stage_configs(timed)] == [5, 5]
    counted = settings(coco, tmp_path, "trainer.max_steps=10", f"recipe={TWO}")
    assert [stage.trainer.max_steps for stage in stage_configs(counted)] == [10, 10]


# ---- names, agreement, bad input ------------------------------------------------------------------------------------


def test_public_doors(coco, tmp_path):
    assert set(boxtune.RECIPES) >= {"r1-llm-only", "r2-vision-only", TWO, "r4-joint"}
    result = boxtune.run_recipe("lora", settings(coco, tmp_path / "a", *STEPS), console=Console(file=io.StringIO()))
    assert len(result.stages) == 1
    saved = boxtune.load_config(tmp_path / "a" / "config.yaml")
    assert (saved.recipe, saved.adapter.language, saved.model.quantize) == ("lora", "lora", "none")
    again = boxtune.train(saved.model_copy(update={"output_dir": str(tmp_path / "b")}), console=Console(quiet=True))
    assert again.losses == result.stages[0].losses


REFUSED = [
    ("unknown", "r5-magic", [], r"Unknown recipe 'r5-magic'. Known: r1-llm-only, r2-vision-only"),
    ("area", "r1-llm-only", ["adapter.vision=full"], "adapter.vision=full contradicts recipe=r1-llm-only.*frozen"),
    ("precision", "r2-vision-only", ["model.quantize=nf4"], "model.quantize=nf4 contradicts recipe=r2-vision-only"),
    ("stages", TWO, ["adapter.language=lora"], f"adapter.language=lora contradicts recipe={TWO}.*frozen, then lora"),
    ("family", "r4-joint", ["model.name=tiny:llama"], "No tiny model of 'llama'. Known: qwen2_5_vl"),
    ("4 bits in full", "lora", ["model.quantize=nf4"], "model.quantize=nf4 contradicts recipe=lora, where it is none"),
]


@pytest.mark.parametrize(("name", "overrides", "message"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused_in_one_line(name, overrides, message, coco, tmp_path):
    with pytest.raises(BoxtuneError, match=message) as caught:
        go(name, coco, tmp_path / "o", *overrides)
    assert "\n" not in str(caught.value)


def test_two_names_are_one_too_many(coco, tmp_path):
    with pytest.raises(ConfigError, match="recipe=full in the configuration, but lora is asked for"):
        go("lora", coco, tmp_path / "o", "recipe=full")


def test_without_bitsandbytes_the_command_is_named(coco, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"4 bits need bitsandbytes: pip install 'bitsandbytes>=0\.50'; or do without"):
        go("r1-llm-only", coco, tmp_path / "o")
    assert go("lora", coco, tmp_path / "p")[0].stages[0].num_steps == 2


def test_what_is_no_contradiction(coco, tmp_path):
    agreed = ("adapter.language=lora", "model.quantize=nf4", "adapter.lora.rank=3", "adapter.merger=frozen")
    config = settings(coco, tmp_path, *agreed, "recipe=r1-llm-only")
    (stage,) = stage_configs(config)
    assert (stage.adapter.lora.rank, stage.recipe) == (3, "r1-llm-only")


def test_rows_are_complete():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.title
        assert recipe.when
        for stage in recipe.stages:
            values = dataclasses.asdict(stage)
            assert {values[area] for area in ("language", "vision", "merger")} <= {"frozen", "lora", "full"}
            assert stage.quantize == "none" or stage.language == "lora"
