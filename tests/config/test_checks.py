"""The rules that concern several keys: what is refused, in which words, and what is not."""

from __future__ import annotations

import pytest

from boxtune.config import checks
from boxtune.config.checks import check_config
from boxtune.config.load import load_config
from boxtune.errors import ConfigError

DATA = "data.path=somewhere"

REFUSED = [
    ("no data", ["data.path=null"], "No data: say --data"),
    ("two ends", ["trainer.minutes=5", "trainer.max_steps=10"], "trainer.minutes and trainer.max_steps"),
    (
        "nothing trained",
        ["adapter.language=frozen", "adapter.vision=frozen", "adapter.merger=frozen"],
        "nothing would be trained",
    ),
    ("lora and full vision", ["adapter.language=lora", "adapter.vision=full"], "an adapter folder holds no full"),
    ("lora and full merger", ["adapter.language=lora", "adapter.merger=full"], "an adapter folder holds no full"),
    ("pixels swapped", ["model.min_pixels=9000", "model.max_pixels=5000"], "model.min_pixels=9000 is more than"),
    ("packed and eager", ["collator.batching=packed", "model.attention=eager"], "needs model.attention=sdpa"),
    ("misspelt argument", ["trainer.adam_bet2=0.9"], "Unknown key 'trainer.adam_bet2'. Did you mean 'adam_beta2'?"),
    ("misspelt key", ["trainer.learning_rat=1"], "Unknown key 'trainer.learning_rat'. Did you mean 'learning_rate'?"),
]

ALLOWED = [
    ("defaults", []),
    ("a budget alone", ["trainer.minutes=5"]),
    ("steps alone", ["trainer.max_steps=10"]),
    ("vision alone", ["adapter.language=frozen", "adapter.vision=full", "adapter.merger=frozen"]),
    ("everything", ["adapter.language=full", "adapter.vision=full", "adapter.merger=full"]),
    ("lora, rest frozen", ["adapter.language=lora", "adapter.vision=frozen", "adapter.merger=frozen"]),
    ("lora, rest auto", ["adapter.language=lora"]),
    ("one pixel limit", ["model.min_pixels=9000"]),
    ("equal pixel limits", ["model.min_pixels=9000", "model.max_pixels=9000"]),
    ("packed", ["collator.batching=packed"]),
    ("padded and eager", ["model.attention=eager"]),
    ("an argument of transformers", ["trainer.adam_beta2=0.98", "trainer.optim=adamw_torch"]),
]


@pytest.mark.parametrize(("overrides", "said"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(overrides: list[str], said: str):
    with pytest.raises(ConfigError) as caught:
        check_config(load_config(None, [DATA, *overrides]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("overrides", [row[1] for row in ALLOWED], ids=[row[0] for row in ALLOWED])
def test_allowed(overrides: list[str]):
    check_config(load_config(None, [DATA, *overrides]))


@pytest.mark.parametrize("name", sorted(checks._ELSEWHERE))
def test_what_has_its_own_place_is_refused_in_the_other(name: str):
    with pytest.raises(ConfigError, match=rf"trainer\.{name} has its own place here: use "):
        check_config(load_config(None, [DATA, f"trainer.{name}=1"]))


def test_the_places_that_are_named_exist():
    config = load_config()
    for place in checks._ELSEWHERE.values():
        section, dot, key = place.split(" ")[0].split("=")[0].partition(".")
        if dot and hasattr(config, section):
            assert hasattr(getattr(config, section), key), place
