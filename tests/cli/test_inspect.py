"""`boxtune inspect model`, `tokens` and `gpu` as a user types them."""

from __future__ import annotations

import functools
import json

import pytest

from boxtune.models.tiny import save_tiny
from inspection.shapes import write_shape
from training.runs import write_coco

TINY = "tiny:qwen2_5_vl"


@pytest.fixture
def inspect(cli):
    """Run `boxtune inspect …` in this process: `(exit code, stdout, stderr)`."""
    return functools.partial(cli, "inspect")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data sets, models and configurations, right and wrong."""
    root = tmp_path_factory.mktemp("place")
    write_coco(root / "coco", 4, labels=("[red]x[/red]\x1b[31m",))
    write_coco(root / "none", 1)
    (root / "none" / "annotations.json").write_text('{"images": [], "annotations": [], "categories": []}')
    write_shape(root / "72b", "Qwen2.5-VL-72B-Instruct")
    save_tiny("qwen2_vl", root / "weights")
    (root / "llama").mkdir()
    (root / "llama" / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}')
    (root / "run.yaml").write_text("model: {name: embedded}\nadapter: {language: lora, lora: {rank: 4}}\n")
    return root


def test_a_model_of_72_billion_without_weights(inspect, place):
    code, out, err = inspect("model", place / "72b")
    assert (code, err) == (0, "")
    assert "73,410,777,344 parameters, 137 GiB in bfloat16" in out
    assert "Linear layers" not in out
    assert "A run" not in out


def test_the_first_screen_says_what_is_trained_and_layers_come_after(inspect, place):
    _, out, _ = inspect("model", place / "72b", "--recipe", "r1")
    assert "Names of layers" not in out
    assert "No conflict: each rule found its layers" in out
    assert len(out.splitlines()) < 25
    _, out, _ = inspect("model", place / "72b", "--recipe", "r1", "--layers", "--linears")
    places = [out.index(t) for t in ("too wide", "Recipe r1-llm-only", "Memory of the weights", "Names of layers")]
    assert [*places, out.index("Linear layers: 723")] == sorted([*places, out.index("Linear layers: 723")])
    assert "mlp.0 " in out


def test_lists_of_layers(inspect, place):
    _, out, _ = inspect("model", place / "72b", "--linears", "--pattern", r"attn\.proj$")
    assert "Linear layers: 723" in out
    assert r"Modules that match 'attn\.proj$': 32" in out
    _, out, _ = inspect("model", place / "72b", "--prefix", "model.visual.merger")
    assert "Linear layers in model.visual.merger: 2" in out
    _, out, _ = inspect("model", place / "72b", "--prefix", "model.visual", "--pattern", "gate_proj")
    assert "Modules that match 'gate_proj' in model.visual: 32" in out
    assert "Linear layers" not in out


def test_what_a_configuration_would_train(inspect, place):
    code, out, err = inspect("model", TINY, "--config", place / "run.yaml", "model.dtype=bfloat16")
    assert (code, err) == (0, "")
    assert "A run: frozen weights in bfloat16\n" in out  # the model is the one named, the rest the file's
    assert "of LoRA of rank 4" in out
    _, out, _ = inspect("model", place / "72b", "adapter.language=lora", "model.quantize=nf4", "model.device=cuda")
    assert "A run: frozen weights in bfloat16 (model.dtype=auto on cuda)" in out
    assert "lora, 4-bit" in out


def test_what_a_recipe_would_train(inspect, place):
    code, out, _ = inspect("model", place / "72b", "--recipe", "r3-two-stage", "--json")
    fields = json.loads(out)
    assert code == 0
    first, second = fields["training"]
    assert "stage 1 of 2" in first["title"]
    trained = [{row["area"]: row["training"] for row in stage["areas"]} for stage in (first, second)]
    assert trained == [
        {"merger": "full", "vision": "full", "language": "frozen", "lm_head": "frozen"},
        {"merger": "frozen", "vision": "frozen", "language": "lora", "lm_head": "frozen"},
    ]
    assert (first["quantized_areas"], second["quantized_areas"]) == ([], ["language"])
    assert second["num_weight_bytes"] < first["num_weight_bytes"] / 3


def test_model_as_json(inspect, place):
    _, out, _ = inspect("model", place / "weights", "--json", "--linears")
    fields = json.loads(out)
    assert fields["num_parameters"] == sum(area["num_parameters"] for area in fields["areas"])
    assert fields["training"] == fields["memory"] == []
    (linears,) = fields["modules"].values()
    assert {"name", "area", "kind", "shape", "num_parameters"} == set(linears[0])


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_tokens(inspect, place, batching):
    code, out, err = inspect("tokens", "--data", place / "coco", "--model", TINY, "--batching", batching, "--num", 2)
    assert (code, err) == (0, "")
    assert f"batch, {batching}: " in out
    assert "<|image_pad|> x " in out
    assert "sample 2" in out
    assert "sample 3" not in out
    assert r"[red]x[/red]\u001b[31m" in out or r"[red]x[/red]\x1b[31m" in out
    assert "\x1b" not in out


def test_tokens_follow_the_configuration(inspect, place):
    said = {}
    for labels in ("assistant", "all_text"):
        _, out, _ = inspect(
            "tokens", "--data", place / "coco", "--model", TINY, "--labels", labels, "--json", "--num", 4
        )
        said[labels] = json.loads(out)
    assert said["all_text"]["counts"]["trained"] > said["assistant"]["counts"]["trained"]
    assert len(said["assistant"]["samples"]) == 4
    for fields in said.values():
        assert fields["num_tokens"] == sum(fields["counts"].values())
        assert fields["samples"][0]["runs"][0]["text"].startswith("<|im_start|>")
    _, out, _ = inspect(
        "tokens", "--data", place / "coco", "--model", TINY, "grounding.prompt=Mark {labels}!", "model.max_pixels=3136"
    )
    assert "Mark " in out
    _, small, _ = inspect("tokens", "--data", place / "coco", "--model", TINY, "model.max_pixels=3136", "--json")
    assert json.loads(small)["samples"][0]["counts"]["image"] <= 4
    _, shown, _ = inspect("tokens", "--data", place / "coco", "--model", TINY, "data.examples=1", "--json", "--num", 4)
    assert json.loads(shown)["counts"]["trained"] > said["assistant"]["counts"]["trained"]
    assert json.loads(shown)["counts"]["image"] > said["assistant"]["counts"]["image"]


def test_gpu(inspect, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = inspect("gpu")
    assert (code, err) == (0, "")
    assert "No GPU: " in out
    code, out, _ = inspect("gpu", "--json")
    assert code == 0
    assert {"gpus", "cpu", "attention", "four_bits", "torch"} <= set(json.loads(out))


MISTAKES = {
    "no such model": (["model", "{in}/nowhere"], ["No model at '{in}/nowhere'", "give a folder"]),
    "no model": (["model"], ["MODEL", "boxtune inspect model --help"]),
    "unknown family": (["model", "{in}/llama"], ["'llama'", "qwen2_5_vl"]),
    "data instead of a model": (["model", "{in}/coco"], ["{in}/coco holds no config.json"]),
    "no regex": (["model", TINY, "--pattern", "(("], ["'((' is no regular expression"]),
    "pattern without a match": (["model", TINY, "--pattern", "q_prj"], ["Did you mean 'q_proj'?"]),
    "prefix without a match": (["model", TINY, "--prefix", "visual"], ["Did you mean 'model.visual'?"]),
    "misspelt key": (["model", TINY, "adapter.langage=lora"], ["Did you mean 'adapter.language'?"]),
    "no such config": (["model", TINY, "--config", "{in}/c.yaml"], ["{in}/c.yaml"]),
    "no such recipe": (["model", TINY, "--recipe", "r9"], ["Unknown recipe 'r9'", "r1-llm-only"]),
    "recipe and another wish": (
        ["model", TINY, "--recipe", "r1-llm-only", "adapter.vision=full"],
        ["adapter.vision=full contradicts recipe=r1-llm-only"],
    ),
    "4 bits in full": (
        ["model", TINY, "adapter.language=full", "model.quantize=nf4"],
        ["model.quantize=nf4", "adapter.language=full"],
    ),
    "all frozen": (
        ["model", TINY, "adapter.language=frozen", "adapter.vision=frozen", "adapter.merger=frozen"],
        ["nothing would be trained"],
    ),
    "no data": (["tokens"], ["--data FOLDER"]),
    "no such data": (["tokens", "--data", "{in}/nowhere"], ["{in}/nowhere"]),
    "empty data": (["tokens", "--data", "{in}/none"], ["{in}/none", "no image"]),
    "no such split": (["tokens", "--data", "{in}/coco", "--split", "test"], ["no splits", "leave --split out"]),
    "no sample": (["tokens", "--data", "{in}/coco", "--num", "0"], ["--num"]),
    "model without processor": (["tokens", "--data", "{in}/coco", "--model", "{in}/72b"], ["{in}/72b"]),
    "sample too long": (["tokens", "--data", "{in}/coco", "collator.max_length=16"], ["collator.max_length"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_line(mistake, inspect, place):
    arguments, expected = MISTAKES[mistake]
    code, out, err = inspect(*(text.replace("{in}", str(place)) for text in arguments))
    lines = [line for line in err.splitlines() if line and not line.startswith("Loading weights")]
    assert (code, len(lines)) == (2, 1), err + out
    assert lines[0].startswith("boxtune: ")
    for text in expected:
        assert text.replace("{in}", str(place)) in lines[0]


@pytest.mark.parametrize("command", ["model", "tokens", "gpu"])
def test_help(inspect, command):
    code, out, _ = inspect(command, "--help")
    assert code == 0
    assert "--json" in out
