"""From YAML files and command-line values to one checked `Config`: defaults < `base:` < file < `a.b=c`."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from boxtune.config.recipes import find_recipe
from boxtune.config.schema import Config
from boxtune.config.wording import in_words
from boxtune.documents import DocumentError, RefusedError, parse_yaml
from boxtune.errors import ConfigError

Tree = dict[str, Any]


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """The configuration from a YAML file and `section.key=value` overrides; a recipe is named in full.

    Raises:
        ConfigError: no file or no YAML, an unknown key (names the nearest valid one) or recipe, a wrong value.
    """
    return load_with_origins(path, overrides)[0]


def load_with_origins(path: str | Path | None, overrides: Iterable[str] = ()) -> tuple[Config, dict[str, str]]:
    """As `load_config`, and for each dotted key where its value came from (`default`, a file, `command line`)."""
    tree: Tree = {}
    origins: dict[str, str] = {}
    layers = _file_layers(Path(path)) if path is not None else []
    for layer, origin in [*layers, *((_override(text), "command line") for text in overrides)]:
        _check_keys(layer, origin)
        _merge(tree, layer)
        origins.update(dict.fromkeys((key for key, _ in flatten(layer)), origin))
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins)) from None
    if config.recipe is not None:
        config = config.model_copy(update={"recipe": find_recipe(config.recipe).name})
    return config, {key: origins.get(key, "default") for key, _ in flatten(config.model_dump())}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` → `("a.b", 1)`, leaves in order."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_yaml(config: Config) -> str:
    """The whole tree as YAML; loading it gives an equal `Config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> Tree:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: no such file, no YAML, or no mapping at the top.
    """
    if not path.is_file():
        raise ConfigError(f"No configuration file at {path}: check the path, or leave --config out.")
    try:
        tree = parse_yaml(path.read_bytes())
    except RefusedError as error:
        raise ConfigError(f"{path} has what is not taken here: {error}") from None
    except DocumentError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path} must hold `section: {{key: value}}` at the top, not a {type(tree).__name__}.")
    return tree or {}


def _file_layers(path: Path) -> list[tuple[Tree, str]]:
    tree = read_yaml(path)
    base = tree.pop("base", None)
    if base is None:
        return [(tree, str(path))]
    base_path = path.parent / str(base)
    base_tree = read_yaml(base_path)
    if "base" in base_tree:
        raise ConfigError(
            f"{base_path} is the base of {path} and has a base itself: only one level is read, merge them."
        )
    return [(base_tree, str(base_path)), (tree, str(path))]


def _override(text: str) -> Tree:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"'{text}' is not KEY=VALUE, for example trainer.learning_rate=1e-4.")
    try:
        parsed = parse_yaml(value)
    except DocumentError:
        parsed = value
    tree: Any = parsed
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    return dict(tree)


def _merge(tree: Tree, layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value


def _check_keys(layer: Mapping[str, Any], origin: str, model: type[BaseModel] = Config, prefix: str = "") -> None:
    for key, value in layer.items():
        field = model.model_fields.get(str(key))
        if field is None:
            if model.model_config.get("extra") == "allow":
                continue  # checked against TrainingArguments, see boxtune.config.checks
            hint = nearest_key(str(key), model.model_fields, prefix)
            raise ConfigError(f"Unknown key '{prefix}{key}' ({origin}). {hint}")
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            if not isinstance(value, Mapping):
                raise ConfigError(f"'{prefix}{key}' ({origin}) is a section: write {prefix}{key}.KEY=VALUE.")
            _check_keys(value, origin, section, f"{prefix}{key}.")
        for member in typing.get_args(section):  # a list of sections
            if isinstance(value, list) and isinstance(member, type) and issubclass(member, BaseModel):
                for number, entry in enumerate(value):
                    if isinstance(entry, Mapping):
                        _check_keys(entry, origin, member, f"{prefix}{key}[{number}].")


def nearest_key(key: str, here: Iterable[str], prefix: str, further: Iterable[str] = ()) -> str:
    """A hint for an unknown key: the nearest of its section, else of another; where none is near, the section's keys.

    Args:
        key: without its section.
        here: names of the section.
        prefix: of the section, with the dot at its end; empty at the top.
        further: names that the section takes too, but that are too many to be listed.
    """
    here = sorted(here)
    elsewhere: dict[str, str] = {}
    for dotted, _ in flatten(Config().model_dump()):
        elsewhere.setdefault(dotted.rpartition(".")[2], dotted)
    if close := _alike(key, here, 0.6) or _with_its_words(key, here):
        return f"Did you mean '{prefix}{close}'?"
    if close := _alike(key, elsewhere, 0.75) or _with_its_words(key, elsewhere):
        return f"Did you mean '{elsewhere[close]}'?"
    if close := _alike(key, further, 0.75):
        return f"Did you mean '{prefix}{close}'?"
    return f"Known: {', '.join(here)}. `boxtune inspect config` tells of each."


def _alike(key: str, names: Iterable[str], cutoff: float) -> str | None:
    close = difflib.get_close_matches(key, sorted(names), n=1, cutoff=cutoff)
    return close[0] if close else None


def _with_its_words(key: str, names: Iterable[str]) -> str | None:
    """`num_train_epochs` for `epochs`."""
    words = set(key.split("_"))
    return next((name for name in names if words <= set(name.split("_"))), None)


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    parts: dict[str, list[Any]] = {}
    values: dict[str, Any] = {}
    for problem in error.errors():
        # a union reports once for each member, with the member's name after the key's own path
        key = _known_prefix([str(part) for part in problem["loc"]])
        parts.setdefault(key, []).append(problem)
        values[key] = problem["input"]
    lines = [
        f"{key} = {values[key]!r} ({origins.get(key, 'given')}): {in_words(problems)}{' or null' * _takes_null(key)}"
        for key, problems in parts.items()
    ]
    return "; ".join(lines) + ". `boxtune inspect config` lists every key with its meaning."


def _takes_null(key: str) -> bool:
    """Whether the key of a setting may be nothing, which pydantic does not say of a wrong value."""
    kind: Any = Config
    for part in key.split("."):
        field = getattr(kind, "model_fields", {}).get(part)
        kind = None if field is None else field.annotation
    return type(None) in typing.get_args(kind)


def _known_prefix(parts: list[str]) -> str:
    known = {key for key, _ in flatten(Config().model_dump())}
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    return ".".join(parts)
