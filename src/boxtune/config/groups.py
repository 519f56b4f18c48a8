"""Parameter groups as far as a configuration knows them: which there are, which are trained, and with which rates."""

from __future__ import annotations

from typing import Final

from boxtune.config.schema import Config
from boxtune.errors import ConfigError

GROUPS: Final = ("vision", "merger", "language", "detection_head", "adapter")
"""LoRA matrices belong to `adapter`, wherever they sit; the weights that they sit in are frozen."""

_AREAS: Final = ("vision", "merger", "language")


def trained_groups(config: Config) -> set[str]:
    """Groups that hold trained parameters; while an area is `auto`, those that it may come to hold."""
    groups = {"detection_head"} if config.model.detection_head else set()
    for area in _AREAS:
        how = getattr(config.adapter, area)
        if how in ("full", "auto"):
            groups.add(area)
        if how in ("lora", "auto"):
            groups.add("adapter")
    return groups


def without_frozen(config: Config) -> Config:
    """The areas whose group has a rate of 0, frozen; so their weights are kept and computed as frozen ones are."""
    rates = config.trainer.rates.model_dump()
    frozen = {
        area: "frozen"
        for area in _AREAS
        if (getattr(config.adapter, area) == "full" and rates[area] == 0)
        or (getattr(config.adapter, area) == "lora" and rates["adapter"] == 0)
    }
    return config.changed("adapter", **frozen) if frozen else config


def for_stage(stage: Config) -> Config:
    """One of several stages of a recipe, with the rates of the groups that it trains; the rest are for other stages."""
    trained = trained_groups(stage)
    kept = {group: rate for group, rate in stage.trainer.rates.model_dump().items() if group in trained}
    return stage.changed("trainer", rates=type(stage.trainer.rates)(**kept))


def check_groups(config: Config) -> None:
    """Refuse rates and factors of groups that hold nothing to train; also called with `auto` fitted.

    Raises:
        ConfigError: names the key, why nothing is trained there, and the remedy.
    """
    trained = trained_groups(config)
    for group, rate in config.trainer.rates.model_dump().items():
        if rate is None or group in trained or (rate == 0 and group in _AREAS):
            continue
        raise ConfigError(f"trainer.rates.{group}={rate:g}, but {_why_not(config, group)}")
    frozen_for_good = {group for group, rate in config.trainer.rates.model_dump().items() if rate == 0}
    if trained and trained <= frozen_for_good:
        raise ConfigError(f"trainer.rates are 0 for all that is trained ({', '.join(sorted(trained))}): raise one.")
    for number, phase in enumerate(config.trainer.phases):
        factors = phase.factors.model_dump()
        for group, factor in factors.items():
            if factor == 1:
                continue
            if group in frozen_for_good:
                raise ConfigError(f"trainer.phases[{number}] has a factor for {group}, but trainer.rates.{group} is 0.")
            if group not in trained:
                raise ConfigError(f"trainer.phases[{number}] has a factor for {group}, but {_why_not(config, group)}")
        if all(factors[group] == 0 for group in trained - frozen_for_good):
            raise ConfigError(
                f"trainer.phases[{number}] freezes all that is trained ({', '.join(sorted(trained))}): leave one of "
                "them a factor above 0."
            )


def _why_not(config: Config, group: str) -> str:
    if group == "detection_head":
        return "there is no detection head: set model.detection_head=true, or leave it out."
    if group == "adapter":
        return "no area is trained by LoRA: use the names of the areas, or set adapter.language=lora."
    if getattr(config.adapter, group) == "lora":
        return f"{group} is trained by LoRA, whose matrices are the group adapter: use that name."
    return f"{group} is frozen (adapter.{group}): set adapter.{group}=full, or leave it out."
