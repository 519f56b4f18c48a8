"""Adapters folded into their bases: the same logits, on whichever base, in the layout of a hub checkpoint."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from boxtune.errors import ModelError
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.families import FAMILIES
from boxtune.models.fingerprint import weights_fingerprint
from boxtune.models.load import load_model
from boxtune.models.merge import TOLERANCE, merge_adapter, probe_inputs
from boxtune.models.tiny import save_tiny

LANGUAGE = {"vision": "frozen", "merger": "frozen", "language": "lora"}
EVERYWHERE = dict.fromkeys(LANGUAGE, "lora")
BF16 = torch.bfloat16


def save_adapter(base: str, folder: Path, training=LANGUAGE, *, quantize: str = "none", **shape) -> Path:
    """An adapter that changes the logits (a fresh one is a zero update)."""
    loaded = load_model(base, quantize=quantize)
    model = prepare_for_training(loaded.model, loaded.family, training, LowRank(rank=4, alpha=8, **shape))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                parameter.normal_(std=0.1, generator=generator)
    model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    held = None if quantize == "none" else {"method": quantize, "dtype": "float32"}
    dataclasses.replace(loaded.contract, quantized_base=held).save(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny("qwen2_5_vl", tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return save_adapter(str(base), tmp_path_factory.mktemp("adapter") / "lora")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """An adapter that was made on 4 bits."""
    pytest.importorskip("bitsandbytes")
    folder = tmp_path_factory.mktemp("packed") / "lora"
    return save_adapter("tiny:qwen2_vl", folder, quantize="nf4")


@torch.no_grad()
def logits(model, processor) -> torch.Tensor:
    return model.eval()(**probe_inputs(processor)).logits.float()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def plain(folder: Path):
    """As anybody opens it."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("shape", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_adapters_everywhere(model_type, shape, tmp_path):
    """Vision tower, mergers and language model at once."""
    adapter = save_adapter(f"tiny:{model_type}", tmp_path / "lora", EVERYWHERE, **shape)
    assert merge_adapter(adapter, tmp_path / "merged") <= 1e-5
    ours = load_model(str(adapter))
    expected = logits(ours.model, ours.processor)
    assert relative(logits(*plain(tmp_path / "merged")), expected) <= 1e-5
    assert relative(logits(*plain_base(model_type, tmp_path)), expected) > 0.01


def plain_base(model_type: str, folder: Path):
    return plain(save_tiny(model_type, folder / "base"))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_bf16_is_the_rounding_of_the_sum(model_type, tmp_path):
    """Logits within the stated number of bf16 roundings, weights bit for bit."""
    adapter = save_adapter(f"tiny:{model_type}", tmp_path / "lora", EVERYWHERE)
    merge_adapter(adapter, tmp_path / "exact")
    assert 1e-3 < merge_adapter(adapter, tmp_path / "merged", dtype=BF16) <= TOLERANCE[BF16]
    exact, rounded = (load_model(str(tmp_path / name)).model.state_dict() for name in ("exact", "merged"))
    assert all(torch.equal(rounded[name], weight.to(BF16).float()) for name, weight in exact.items())
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_by_default_an_adapter_of_4_bits_goes_into_the_weights_it_was_trained_on(packed, tmp_path):
    """The trained model is nearer to that merge than to the other by more than bf16 arithmetic explains."""
    assert merge_adapter(packed, tmp_path / "auto") <= 1e-5
    assert merge_adapter(packed, tmp_path / "original", base="original") <= 1e-5
    trained = load_model(str(packed), quantize="nf4")
    expected = logits(trained.model, trained.processor)
    auto, original = (logits(*plain(tmp_path / name)) for name in ("auto", "original"))
    assert relative(auto, expected) < 0.03  # 4-bit layers compute in bf16; measured 0.014
    assert relative(original, expected) > 0.2
    unpacked = load_model(str(packed))
    assert relative(original, logits(unpacked.model, unpacked.processor)) <= 1e-5
    assert load_model(str(tmp_path / "auto")).contract.quantized_base is None


def test_dequantized_needs_a_base_of_4_bits(adapter, tmp_path):
    with pytest.raises(ModelError, match="was not trained on a 4-bit base: leave --base out"):
        merge_adapter(adapter, tmp_path / "merged", base="dequantized")
    assert not (tmp_path / "merged").exists()


def test_a_folder_of_stages_names_the_one_to_merge(adapter, tmp_path):
    home = tmp_path / "r3"
    (home / "stage-1-vision").mkdir(parents=True)
    shutil.copytree(adapter, home / "stage-2-language")
    with pytest.raises(ModelError, match=rf"{home} holds the stages of a recipe: merge {home}/stage-2-language\."):
        merge_adapter(home, tmp_path / "merged")


def test_a_base_that_has_changed_since_is_refused(adapter, base, tmp_path):
    contract = load_model(str(adapter)).contract
    folder = tmp_path / "lora"
    save_adapter(str(base), folder)
    dataclasses.replace(contract, base_weights=weights_fingerprint(base)).save(folder)
    merge_adapter(folder, tmp_path / "merged")
    dataclasses.replace(contract, base_weights="0" * 64).save(folder)
    with pytest.raises(ModelError, match=r"are not those that .*lora was trained on"):
        merge_adapter(folder, tmp_path / "again")


# As in model.safetensors of Qwen/Qwen2-VL-2B-Instruct, Qwen2.5-VL-3B-Instruct and Qwen3-VL-2B-Instruct.
HUB_NAMES = {
    "qwen2_vl": ("visual.blocks.0.attn.qkv.weight", "model.layers.0.self_attn.q_proj.weight"),
    "qwen2_5_vl": ("visual.blocks.0.attn.qkv.weight", "model.layers.0.self_attn.q_proj.weight"),
    "qwen3_vl": ("model.visual.blocks.0.attn.qkv.weight", "model.language_model.layers.0.self_attn.q_proj.weight"),
}


@pytest.mark.parametrize("model_type", HUB_NAMES)
def test_layout_is_that_of_a_hub_checkpoint(model_type, tmp_path):
    """What vLLM reads: names of files, of weights, of the architecture, and the processor both old and new."""
    folder = tmp_path / "merged"
    merge_adapter(save_adapter(f"tiny:{model_type}", tmp_path / "lora"), folder)
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "boxtune.json"} <= files
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= files
    assert {"processor_config.json", "preprocessor_config.json"} <= files
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert set(HUB_NAMES[model_type]) <= names
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == model_type
    assert config["architectures"][0].endswith("ForConditionalGeneration")
    assert "quantization_config" not in config
    old = json.loads((folder / "preprocessor_config.json").read_text())
    new = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    assert old["size"] == new["size"]


def test_merged_equals_adapter_and_opens_with_plain_transformers(adapter, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    difference = merge_adapter(adapter, tmp_path / "merged")
    assert difference <= 1e-5 < TOLERANCE[torch.float32]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")
    ours = load_model(str(adapter))
    expected = logits(ours.model, ours.processor)
    assert torch.allclose(logits(model, processor), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    merged = load_model(str(tmp_path / "merged"))
    assert (merged.contract, merged.trained_here) == (ours.contract, True)


def test_the_record_of_the_run_is_carried_over(adapter, tmp_path):
    """By it an evaluation of the merged model knows which images were trained on."""
    folder = shutil.copytree(adapter, tmp_path / "lora")
    (folder / "run.json").write_text('{"data": {"images": ""}}')
    merge_adapter(folder, tmp_path / "merged")
    assert (tmp_path / "merged" / "run.json").read_bytes() == (folder / "run.json").read_bytes()
    merge_adapter(adapter, tmp_path / "bare")  # of an adapter from elsewhere nothing is known
    assert not (tmp_path / "bare" / "run.json").exists()


def test_merge_refuses_a_full_folder(adapter, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="not an empty folder"):
        merge_adapter(adapter, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_merge_refuses_a_file_as_output(adapter, tmp_path):
    (tmp_path / "merged").write_text("a file")
    with pytest.raises(ModelError, match="not an empty folder"):
        merge_adapter(adapter, tmp_path / "merged")


def test_merge_refuses_a_full_model(base, tmp_path):
    with pytest.raises(ModelError, match="holds no adapter"):
        merge_adapter(base, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_lost_update_is_noticed(adapter, tmp_path, monkeypatch):
    """The proof is real: a merge that drops the adapter is refused."""
    from peft import PeftModel

    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **_: self.unload(), raising=False)
    with pytest.raises(ModelError, match="differ from the adapter's"):
        merge_adapter(adapter, tmp_path / "merged")
