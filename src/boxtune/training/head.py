"""The detection head of a run: a new one fitted to the model, or the one that the model's folder holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Console

from boxtune.config.schema import Config
from boxtune.console import say
from boxtune.errors import ConfigError
from boxtune.losses.detection import DetectionLossConfig
from boxtune.losses.language import LanguageLossConfig
from boxtune.losses.matching import MatchingCosts
from boxtune.models.detection_head.captioner import encode_labels
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.load import LoadedModel
from boxtune.models.places import EMBEDDED
from boxtune.training.objective import Objective


def fit_head(
    config: Config, loaded: LoadedModel, labels: Sequence[str], console: Console
) -> tuple[Config, LoadedModel]:
    """The model with the head that the run trains, or with none; and the settings with those of the head filled in.

    A new head draws its weights from torch's generator.

    Args:
        config: as it was given.
        loaded: the model, with the head of its folder.
        labels: of the data set.
        console: is told what becomes of a head that the folder holds.

    Raises:
        ConfigError: settings that contradict the folder's head or each other, or a label that is too long.
    """
    if not config.model.detection_head:
        if loaded.head is not None and config.model.name != EMBEDDED:  # nobody has trained that one here
            say(
                console,
                f"The detection head of {config.model.name} is dropped: model.detection_head=true trains it further.",
            )
        return config, dataclasses.replace(loaded, head=None)
    wanted = {name: value for name, value in _sizes(config).items() if value != "auto"}
    head = loaded.head
    if head is None:
        end = loaded.processor.tokenizer.eos_token_id
        head = DetectionHead(fitted_to(loaded.model.config.get_text_config(), end, **wanted))
    else:
        _check_agreement(config.model.name, head, wanted)
        say(console, f"Detection head: that of {config.model.name}, trained further.")
    encode_labels(labels, loaded.processor.tokenizer, head.config)
    fitted = {name: getattr(head.config, name) for name in _sizes(config)}
    return config.changed("detection_head", **fitted), dataclasses.replace(loaded, head=head)


def objective(config: Config, head: DetectionHead | None) -> Objective:
    """What a run makes smaller."""
    text = LanguageLossConfig(**config.losses.model_dump())
    return Objective(language=text) if head is None else Objective(head, loss_settings(config), text)


def loss_settings(config: Config) -> DetectionLossConfig:
    """The weights of the head's losses."""
    settings = config.detection_head.loss.model_dump()
    return DetectionLossConfig(**{**settings, "matching": MatchingCosts(**settings["matching"])})


def _sizes(config: Config) -> dict[str, object]:
    return config.detection_head.model_dump(exclude={"loss"})


def _check_agreement(name: str, head: DetectionHead, wanted: dict[str, object]) -> None:
    for key, value in wanted.items():
        if (found := getattr(head.config, key)) != value:
            raise ConfigError(
                f"detection_head.{key} is {value}, but the head in {name} has {found}: leave it out to train that head "
                "further, or name a model without a head to begin a new one."
            )
