"""Which groups a configuration trains, and what becomes of rates that are 0 or another stage's."""

from __future__ import annotations

import pytest

from boxtune.config.groups import for_stage, trained_groups, without_frozen
from boxtune.config.load import load_config
from boxtune.config.recipes import stage_configs
from boxtune.config.schema import Config


def config(vision: str, merger: str, language: str, *more: str) -> Config:
    areas = {"vision": vision, "merger": merger, "language": language}
    return load_config(None, [*(f"adapter.{area}={how}" for area, how in areas.items()), *more])


@pytest.mark.parametrize(
    ("areas", "groups"),
    [
        (("full", "frozen", "frozen"), {"vision"}),
        (("full", "full", "full"), {"vision", "merger", "language"}),
        (("frozen", "frozen", "lora"), {"adapter"}),
        (("lora", "lora", "lora"), {"adapter"}),
        (("auto", "frozen", "frozen"), {"vision", "adapter"}),
        (("frozen", "frozen", "frozen"), set()),
    ],
)
def test_groups_of_areas(areas, groups):
    assert trained_groups(config(*areas)) == groups
    assert trained_groups(config(*areas, "model.detection_head=true")) == groups | {"detection_head"}


@pytest.mark.parametrize(
    ("areas", "rate", "frozen"),
    [
        (("full", "full", "full"), "vision", ("frozen", "full", "full")),
        (("full", "full", "full"), "language", ("full", "full", "frozen")),
        (("lora", "frozen", "lora"), "adapter", ("frozen", "frozen", "frozen")),
        (("frozen", "frozen", "lora"), "vision", ("frozen", "frozen", "lora")),
    ],
)
def test_a_rate_of_0_freezes_what_its_group_trains(areas, rate, frozen):
    found = without_frozen(config(*areas, f"trainer.rates.{rate}=0"))
    assert (found.adapter.vision, found.adapter.merger, found.adapter.language) == frozen


def test_other_rates_freeze_nothing():
    asked = config("full", "full", "full", "trainer.rates.vision=1e-9")
    assert without_frozen(asked) is asked


def test_a_stage_has_the_rates_of_what_it_trains():
    rates = ("trainer.rates.vision=1e-5", "trainer.rates.merger=2e-5", "trainer.rates.adapter=1e-4")
    first, second = stage_configs(load_config(None, ["recipe=r3-two-stage", *rates]))
    none = {"detection_head": None, "language": None}
    assert first.trainer.rates.model_dump() == {"vision": 1e-5, "merger": 2e-5, "adapter": None, **none}
    assert second.trainer.rates.model_dump() == {"vision": None, "merger": None, "adapter": 1e-4, **none}
    assert for_stage(second) == second
