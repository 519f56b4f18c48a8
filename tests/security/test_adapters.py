"""The settings of an adapter: plain LoRA alone, no code, no other files, and no search without end."""

from __future__ import annotations

import json
import shutil
import sys
import time

import pytest
import torch

from boxtune.errors import ModelError
from boxtune.inspection.skeleton import load_skeleton
from boxtune.models.load import load_model
from boxtune.models.strangers import may_search_for_ever

ENDLESS = r"(([a-z0-9._]+)+)+!"


@pytest.fixture
def changed(adapter_folder, tmp_path):
    """A copy of the adapter with other settings."""

    def change(**settings: object) -> str:
        folder = shutil.copytree(adapter_folder, tmp_path / "lora")
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        return str(folder)

    return change


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "XLORA"}, "adapters of the kind 'XLORA' are not read"),
        ({"peft_type": "PROMPT_TUNING"}, "adapters of the kind 'PROMPT_TUNING'"),
        ({"peft_type": None}, "adapters of the kind None"),
        ({"megatron_config": {"a": 1}, "megatron_core": "stranger"}, "what megatron_config should do is not known"),
        ({"corda_config": {"cache_file": "cache.pt"}}, "what corda_config should do"),
        ({"lora_ga_config": {"cache_file": "cache.pt"}}, "what lora_ga_config should do"),
        ({"layer_replication": [[0, 1_000_000]]}, "what layer_replication should do"),
        ({"nonsense": 1}, "what nonsense should do"),
        ({"r": 10**9}, "r is 1000000000, no rank"),
        ({"r": "sixteen"}, "r is 'sixteen', no rank"),
        ({"rank_pattern": {ENDLESS: 4}}, "might search for ever"),
        ({"alpha_pattern": [4]}, "alpha_pattern is"),
        ({"exclude_modules": ENDLESS}, "might search for ever"),
        ({"layers_pattern": [ENDLESS]}, "might search for ever"),
    ],
)
def test_what_is_no_plain_lora_is_refused(changed, settings, said):
    folder = changed(**settings)
    for load in (load_model, load_skeleton):
        with pytest.raises(ModelError, match=said):
            load(folder)


def test_no_module_that_an_adapter_names_is_imported(changed, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    load_model(changed(auto_mapping={"base_model_class": "A", "parent_library": "stranger"}))
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("targets", [f"^{ENDLESS}$", "^" + "(.*)" * 12 + "!$", "x" * 20_000])
def test_modules_told_by_an_endless_search_are_read_from_the_weights(changed, adapter_folder, targets):
    begin = time.thread_time()
    strange = load_model(changed(target_modules=targets))
    assert time.thread_time() - begin < 20
    honest = load_model(str(adapter_folder))
    expected = low_rank_weights(honest.model)
    assert expected
    found = low_rank_weights(strange.model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def low_rank_weights(model) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if ".lora_" in name}


@pytest.mark.parametrize(
    ("expression", "endless"),
    [
        (r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)", False),
        (r".*language_model.*\.(q_proj|v_proj)", False),
        ("q_proj", False),
        (r"(a|b)?c", False),
        (r"\(\)\*+", False),
        (r"[)*+]+x", False),
        (r"(a+)+$", True),
        (r"(a|aa)*$", True),
        (r"(a{1,9}){2,}", True),
        (r"(?:a*)*", True),
        (r".*.*.*.*.*x", True),
        (r"a{0,99}a{0,99}a{0,99}a{0,99}x", True),
    ],
)
def test_expressions_that_may_search_for_ever(expression, endless):
    assert may_search_for_ever(expression) == endless


def test_our_own_adapters_are_matched_as_they_say(adapter_folder):
    told = json.loads((adapter_folder / "adapter_config.json").read_text())["target_modules"]
    assert not may_search_for_ever(told)
