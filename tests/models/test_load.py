"""Models by name: folders, adapters, and what is refused in one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from boxtune.errors import ModelError
from boxtune.models.areas import LowRank, prepare_for_training
from boxtune.models.contract import default_contract
from boxtune.models.families import FAMILIES, family
from boxtune.models.load import load_model
from boxtune.models.merge import probe_inputs
from boxtune.models.tiny import save_tiny

LORA = {"vision": "frozen", "merger": "frozen", "language": "lora"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny("qwen2_5_vl", tmp_path_factory.mktemp("base") / "model")


def save_adapter(base: str, folder):
    """An adapter that changes the logits (a fresh one is a zero update)."""
    loaded = load_model(base)
    model = prepare_for_training(loaded.model, loaded.family, LORA, LowRank(rank=4, alpha=8))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1, generator=generator)
    model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    default_contract(loaded.contract.model_type, loaded.processor).save(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return save_adapter(str(base), tmp_path_factory.mktemp("adapter") / "lora")


@torch.no_grad()
def logits(model, processor) -> torch.Tensor:
    return model.eval()(**probe_inputs(processor)).logits


@pytest.mark.parametrize("model_type", FAMILIES)
def test_saved_folder_gives_the_same_logits(tmp_path, tiny, model_type):
    model, processor = tiny(model_type)
    loaded = load_model(str(save_tiny(model_type, tmp_path / "model")))
    assert loaded.family is FAMILIES[model_type]
    assert torch.equal(logits(loaded.model, loaded.processor), logits(model, processor))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_tiny_by_name(model_type):
    loaded = load_model(f"tiny:{model_type}", dtype=torch.bfloat16)
    assert (loaded.base, loaded.trained_here, loaded.model.dtype) == (f"tiny:{model_type}", False, torch.bfloat16)


def test_weights_are_written_as_safetensors(base, adapter):
    assert {path.suffix for folder in (base, adapter) for path in folder.glob("*model.*")} == {".safetensors"}


def test_loaded_without_contract_has_the_processors_limits(base):
    loaded = load_model(str(base))
    assert not loaded.trained_here
    assert loaded.contract == default_contract("qwen2_5_vl", loaded.processor)


def test_peft_opens_the_adapter_to_the_same_logits(base, adapter):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    ours = load_model(str(adapter))
    plain = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    before = logits(plain, ours.processor)
    theirs = logits(PeftModel.from_pretrained(plain, str(adapter)), ours.processor)
    assert torch.equal(logits(ours.model, ours.processor), theirs)
    assert not torch.allclose(before, theirs, atol=1e-3)


@pytest.mark.parametrize("trainable", [True, False])
def test_adapter_is_trainable_only_when_asked(adapter, trainable):
    loaded = load_model(str(adapter), trainable=trainable)
    opened = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert bool(opened) is trainable
    assert all(".lora_" in name for name in opened)


def test_adapter_on_a_tiny_model(tmp_path):
    loaded = load_model(str(save_adapter("tiny:qwen3_vl", tmp_path / "lora")))
    assert (loaded.base, loaded.family.model_type) == ("tiny:qwen3_vl", "qwen3_vl")


def copied(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 96
    (folder / "config.json").write_text(json.dumps(config))


def lost_weights(folder):
    """A file that lacks one weight."""
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("attn.qkv.weight")))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


BREAKAGES = {
    "no-config": lambda f: (f / "config.json").unlink(),
    "empty": empty,
    "broken-config": lambda f: (f / "config.json").write_text("{"),
    "no-weights": lambda f: (f / "model.safetensors").unlink(),
    "cut-weights": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:1000]),
    "empty-weights": lambda f: (f / "model.safetensors").write_bytes(b""),
    "lost-weights": lost_weights,
    "other-shape": other_shape,
    "other-family": lambda f: change_json(f / "config.json", model_type="llama"),
    "nonsense-family": lambda f: change_json(f / "config.json", model_type="no_such_type"),
    "no-tokenizer": lambda f: [p.unlink() for p in f.glob("*tokenizer*")],
    "broken-tokenizer": lambda f: (f / "tokenizer.json").write_text("{"),
    "no-processor": lambda f: [p.unlink() for p in f.glob("*processor_config*")],
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_folder_is_one_line(base, tmp_path, breakage):
    folder = copied(base, tmp_path)
    BREAKAGES[breakage](folder)
    with pytest.raises(ModelError) as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)


ADAPTER_BREAKAGES = {
    "broken-config": lambda f: (f / "adapter_config.json").write_text("{"),
    "config-is-a-list": lambda f: (f / "adapter_config.json").write_text("[]"),
    "no-base": lambda f: change_json(f / "adapter_config.json", base_model_name_or_path=None),
    "lost-base": lambda f: change_json(f / "adapter_config.json", base_model_name_or_path="/no/such/model"),
    "other-rank": lambda f: change_json(f / "adapter_config.json", r=2),
    "no-weights": lambda f: (f / "adapter_model.safetensors").unlink(),
    "cut-weights": lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x10" * 100),
    "unknown-kind": lambda f: change_json(f / "adapter_config.json", peft_type="NONSENSE"),
}


@pytest.mark.parametrize("breakage", ADAPTER_BREAKAGES)
def test_broken_adapter_is_one_line(adapter, tmp_path, breakage):
    folder = copied(adapter, tmp_path)
    ADAPTER_BREAKAGES[breakage](folder)
    with pytest.raises(ModelError) as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["no-such-folder", "./a/b", "/no/such", "~/model", "a/b/c", "", "tiny:qwen9"])
def test_unknown_name_says_what_to_give(name):
    with pytest.raises(ModelError) as error:
        load_model(name)
    assert "\n" not in str(error.value)
    assert any(hint in str(error.value) for hint in ("hub id", "Did you mean 'qwen"))


def test_family_of_the_loaded_model(base):
    assert load_model(str(base)).family is family("qwen2_5_vl")
