"""Who divides a run among processes, as the configuration or a launcher says it; the files for launchers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from transformers import TrainingArguments

from boxtune.config.engines import asked_by, engine_of, left_out, own_environment, zero_stage
from boxtune.config.load import load_config
from boxtune.errors import ConfigError
from boxtune.training.arguments import check_engine_here

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs" / "processes").glob("*.yaml"))


@pytest.fixture
def launched(monkeypatch):
    """The environment that `accelerate launch` makes of one of our files."""

    def launch(name: str) -> None:
        monkeypatch.chdir(ROOT)
        words = ["--config_file", f"configs/processes/{name}.yaml", "-m", "boxtune", "train"]
        args, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
        args.deepspeed_fields_from_accelerate_config = ""
        made = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
        for variable, value in made.items():
            monkeypatch.setenv(variable, str(value))

    return launch


@pytest.mark.parametrize(
    ("name", "engine", "stage"),
    [("ddp", "ddp", 0), ("fsdp2", "fsdp", 0), ("zero2", "deepspeed", 2), ("zero3", "deepspeed", 3)],
)
def test_what_a_launcher_says(launched, name, engine, stage):
    launched(name)
    config = load_config(None)
    assert (engine_of(config), zero_stage(config)) == (engine, stage)
    if engine != "ddp":
        assert asked_by(config).startswith("ACCELERATE_USE_")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_one_of_accelerates(path):
    assert load_config_from_file(str(path)).num_processes == 2
    assert str(path.relative_to(ROOT)) in path.read_text().splitlines()[0]


@pytest.mark.parametrize("stage", [2, 3])
def test_settings_of_deepspeed_leave_to_transformers_what_it_knows(stage):
    told = json.loads((ROOT / "configs" / "processes" / f"zero{stage}.json").read_text())
    assert told["zero_optimization"]["stage"] == stage
    assert "optimizer" not in told
    assert {told["gradient_clipping"], told["train_micro_batch_size_per_gpu"], told["bf16"]["enabled"]} == {"auto"}


def test_fsdp_in_the_file_is_what_transformers_makes_of_a_word():
    told = yaml.safe_load((ROOT / "configs" / "processes" / "fsdp2.yaml").read_text())["fsdp_config"]
    word = TrainingArguments(output_dir="x", fsdp=True, use_cpu=True).fsdp_plugin_args
    assert word is not None
    for name in ("auto_wrap_policy", "reshard_after_forward", "cpu_ram_efficient_loading", "state_dict_type"):
        assert told[f"fsdp_{name}"] == word[name]
    assert (told["fsdp_version"], told["fsdp_offload_params"]) == (word["fsdp_version"], word.get("cpu_offload", False))


def test_the_configuration_says_it_too():
    config = load_config(None, ["trainer.deepspeed={zero_optimization: {stage: 3}}"])
    assert (engine_of(config), zero_stage(config), asked_by(config)) == ("deepspeed", 3, "trainer.deepspeed")
    assert engine_of(load_config(None, ["trainer.fsdp=true"])) == "fsdp"
    assert "compiled_blocks" in left_out("deepspeed")
    assert left_out("ddp") == ()


def test_what_a_run_leaves_in_the_environment_is_taken_back(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")

    @own_environment()
    def run() -> None:
        os.environ.update({"ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_DEEPSPEED": "true"})
        raise KeyError

    with pytest.raises(KeyError):
        run()
    assert "ACCELERATE_USE_FSDP" not in os.environ
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "false"


def test_one_process_has_nobody_to_divide_with():
    with pytest.raises(ConfigError, match=r"trainer\.fsdp divides a run among processes.*torchrun"):
        check_engine_here(load_config(None, ["trainer.fsdp=true"]))
    check_engine_here(load_config(None))


def test_deepspeed_is_missing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="DeepSpeed is not installed: pip install deepspeed"):
        check_engine_here(load_config(None, ["trainer.deepspeed={zero_optimization: {stage: 2}}"]))
