"""Recipes: what is trained in which order, by name. Each is a row that fixes areas and precision, and nothing else.

Rates, batch sizes, ranks and lengths stay the user's, or are fitted as in any run. A setting that a recipe fixes may be
said again, but not otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from boxtune.config.groups import for_stage
from boxtune.config.schema import Config
from boxtune.errors import ConfigError

_KEYS = ("adapter.language", "adapter.vision", "adapter.merger", "model.quantize")


@dataclass(frozen=True)
class Stage:
    """One training run of a recipe.

    Attributes:
        name: of its folder, where a recipe has several.
        language, vision, merger: `frozen`, `lora` or `full`.
        quantize: `nf4` holds the language model's linears in 4 bits, `none` nothing.
    """

    name: str
    language: str
    vision: str
    merger: str
    quantize: str = "none"

    @property
    def settings(self) -> Mapping[str, str]:
        """Dotted key of the configuration → its value."""
        return dict(zip(_KEYS, (self.language, self.vision, self.merger, self.quantize), strict=True))


@dataclass(frozen=True)
class Recipe:
    """A name for one or more runs, each after the first on the result of the one before.

    Attributes:
        name, title: short, and in words.
        when: what it is good for, one line.
        stages: in order.
    """

    name: str
    title: str
    when: str
    stages: tuple[Stage, ...]

    @property
    def short_name(self) -> str:
        """What stands before the first dash."""
        return self.name.partition("-")[0]


_VISION = Stage("vision", language="frozen", vision="full", merger="full")
_LANGUAGE = Stage("language", language="lora", vision="frozen", merger="frozen", quantize="nf4")

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "r1-llm-only",
            "LoRA on a 4-bit language model",
            "the pictures are of a kind that the model knows; least memory",
            (_LANGUAGE,),
        ),
        Recipe(
            "r2-vision-only",
            "vision tower and merger in full",
            "the pictures look unlike photos (scans, microscopes), the answers are simple",
            (_VISION,),
        ),
        Recipe(
            "r3-two-stage",
            "r2, then r1 on its result",
            "strange pictures and a strange task; twice the time",
            (_VISION, _LANGUAGE),
        ),
        Recipe(
            "r4-joint",
            "LoRA everywhere at once, on a 4-bit language model",
            "as r3 in one run and with little memory; the result is one adapter",
            (Stage("joint", language="lora", vision="lora", merger="lora", quantize="nf4"),),
        ),
        Recipe(
            "lora",
            "LoRA on the language model, nothing in 4 bits",
            "as r1 where memory is no matter; faster a step, no bitsandbytes",
            (Stage("lora", language="lora", vision="frozen", merger="frozen"),),
        ),
        Recipe(
            "full",
            "everything in full",
            "small models, or many images and much memory",
            (Stage("full", language="full", vision="full", merger="full"),),
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, whole (`r1-llm-only`) or short (`r1`).

    Raises:
        ConfigError: unknown; names those known.
    """
    for recipe in RECIPES.values():
        if name in (recipe.name, recipe.short_name):
            return recipe
    raise ConfigError(
        f"Unknown recipe '{name}'. Known: {', '.join(RECIPES)}, or short, as r1; `boxtune recipes` says more."
    )


def stage_folder(config: Config, number: int) -> Path:
    """Where the stage of that number (from 0) is trained: the output folder, or a folder in it for each of several."""
    assert config.recipe is not None
    stages = find_recipe(config.recipe).stages
    home = Path(config.output_dir)
    return home if len(stages) == 1 else home / f"stage-{number + 1}-{stages[number].name}"


def stage_configs(config: Config) -> list[Config]:
    """The configuration of each stage of a recipe; without one, the configuration as it is.

    A budget of time is divided equally; a number of steps or epochs holds for each stage. Where there are several, each
    is a plain run in a folder of its own, and the model of each after the first is the folder before.

    Raises:
        ConfigError: an unknown recipe, or a setting that contradicts it.
    """
    if config.recipe is None:
        return [config]
    recipe = find_recipe(config.recipe)
    _check_agreement(config, recipe)
    made: list[Config] = []
    for number, stage in enumerate(recipe.stages):
        adapter = {"language": stage.language, "vision": stage.vision, "merger": stage.merger}
        one = config.changed("adapter", **adapter).changed("model", quantize=stage.quantize)
        if len(recipe.stages) > 1:
            one = one.model_copy(update={"recipe": None, "output_dir": str(stage_folder(config, number))})
            if config.trainer.minutes is not None:
                one = one.changed("trainer", minutes=config.trainer.minutes / len(recipe.stages))
            one = for_stage(one)
            if number:
                one = one.changed("model", name=str(stage_folder(config, number - 1)))
        made.append(one)
    return made


def _check_agreement(config: Config, recipe: Recipe) -> None:
    for key in _KEYS:
        section, name = key.split(".")
        said = getattr(getattr(config, section), name)
        fixed = list(dict.fromkeys(stage.settings[key] for stage in recipe.stages))
        if said != "auto" and [said] != fixed:
            raise ConfigError(
                f"{key}={said} contradicts recipe={recipe.name}, where it is {', then '.join(fixed)}: leave {key} out, "
                "or leave the recipe out and say every area yourself (see `boxtune recipes`)."
            )
