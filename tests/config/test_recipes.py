"""Recipes by their names, whole and short."""

from __future__ import annotations

import pytest

from boxtune.config.load import load_config
from boxtune.config.recipes import RECIPES, find_recipe
from boxtune.config.schema import Config
from boxtune.errors import ConfigError


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("r1", "r1-llm-only"),
        ("r2", "r2-vision-only"),
        ("r3", "r3-two-stage"),
        ("r4", "r4-joint"),
        ("lora", "lora"),
        ("full", "full"),
        ("r1-llm-only", "r1-llm-only"),
    ],
)
def test_names(said, meant):
    assert find_recipe(said) is RECIPES[meant]
    assert load_config(None, [f"recipe={said}"]).recipe == meant


def test_short_names_are_unambiguous():
    assert len({recipe.short_name for recipe in RECIPES.values()}) == len(RECIPES)
    assert not {recipe.short_name for recipe in RECIPES.values()} & {n for n, r in RECIPES.items() if r.short_name != n}


@pytest.mark.parametrize("name", ["r", "r9", "r1-", "llm-only", "R1", ""])
def test_unknown_names_are_told_the_known_ones(name):
    with pytest.raises(ConfigError, match=f"Unknown recipe '{name}'. Known: r1-llm-only, .*, full, or short, as r1"):
        find_recipe(name)
    with pytest.raises(ConfigError, match=f"Unknown recipe '{name}'"):
        load_config(None, [f"recipe='{name}'"])


def test_a_short_name_in_python():
    from boxtune.config.recipes import stage_configs

    first, second = stage_configs(Config(recipe="r3"))
    assert (first.adapter.vision, second.adapter.language, second.model.quantize) == ("full", "lora", "nf4")
