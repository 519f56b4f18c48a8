"""Which layers a model has: by area, by name, by pattern. Works on the meta device as well as on a loaded model.

Names are those of the bare model, also where PEFT has wrapped it.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from boxtune.errors import ConfigError, ModelError, nearest
from boxtune.models.areas import bare_name
from boxtune.models.families import family

# kinds of layers that PEFT can wrap; norms and the like it cannot
_TARGETABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
_NUM_NEAR = 3


@dataclass(frozen=True)
class ModuleInfo:
    """One module.

    Attributes:
        name: dotted path in the bare model.
        area: of the families table; None above all areas (`model`).
        kind: its class.
        shape: `(out, in)` of a linear layer, the shape of the weight of any other, `()` where it has none.
        num_parameters: its own and those of its children.
    """

    name: str
    area: str | None
    kind: str
    shape: tuple[int, ...]
    num_parameters: int


@dataclass(frozen=True)
class AreaSize:
    """What one area holds.

    Attributes:
        area: name in the families table.
        num_blocks: length of its longest list of equal blocks.
        num_linears: linear layers.
        num_tensors, num_parameters, num_bytes: each shared tensor counted once, in the area that it belongs to first.
    """

    area: str
    num_blocks: int
    num_linears: int
    num_tensors: int
    num_parameters: int
    num_bytes: int


@dataclass(frozen=True)
class LayerPlace:
    """How many layers of one kind in one area have a name."""

    area: str
    kind: str
    count: int


@dataclass(frozen=True)
class LayerName:
    """The last part of layers' names, and where it occurs: what a LoRA target of only this name would reach.

    Attributes:
        name: such as `q_proj`; with the part before it where it is only a number, as `mlp.0`.
        places: in the order of the areas.
    """

    name: str
    places: tuple[LayerPlace, ...]

    @property
    def is_ambiguous(self) -> bool:
        """Whether layers of more than one area or kind have the name."""
        return len(self.places) > 1


@dataclass(frozen=True)
class Architecture:
    """A model at a glance.

    Attributes:
        model_type: family.
        dtypes: of its parameters, as in config.json where there are no weights.
        areas: one row an area that has parameters or layers, in the table's order.
        tied: `(name, name)` of parameters that are one tensor, counted with the second.
        layer_names: every last part of a layer's name.
    """

    model_type: str
    dtypes: tuple[str, ...]
    areas: tuple[AreaSize, ...]
    tied: tuple[tuple[str, str], ...]
    layer_names: tuple[LayerName, ...]

    @property
    def num_parameters(self) -> int:
        """Of all areas."""
        return sum(area.num_parameters for area in self.areas)

    @property
    def num_bytes(self) -> int:
        """Of all areas, in the dtypes that they have."""
        return sum(area.num_bytes for area in self.areas)


def describe_architecture(model: Any) -> Architecture:
    """Areas with their sizes, tied weights and layer names of a model of a known family.

    Raises:
        ModelError: unknown family, or a parameter outside its areas.
    """
    row = family(model.config)
    tensors: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    dtypes: dict[str, None] = {}
    for name, parameter in model.named_parameters():
        area = row.area_of(bare_name(name))
        tensors[area] += 1
        parameters[area] += parameter.numel()
        num_bytes[area] += parameter.numel() * parameter.element_size()
        dtypes[str(parameter.dtype).removeprefix("torch.")] = None
    layers = list(_layers(model))
    linears = Counter(row.area_of(f"{name}.") for name, layer in layers if isinstance(layer, nn.Linear))
    blocks = _num_blocks(model)
    return Architecture(
        model_type=row.model_type,
        dtypes=tuple(dtypes),
        areas=tuple(
            AreaSize(area, blocks[area], linears[area], tensors[area], parameters[area], num_bytes[area])
            for area in row.areas
            if parameters[area] or linears[area]
        ),
        tied=_tied(model),
        layer_names=_layer_names(model, layers),
    )


def list_linear_modules(model: Any, prefix: str = "") -> list[ModuleInfo]:
    """Linear layers in the model's order.

    Args:
        model: of a known family, bare or wrapped by PEFT (whose own layers are left out).
        prefix: only those in the module of this path, such as `model.language_model.layers.0`.

    Raises:
        ModelError: no module has this path, or it holds no linear layer; names near ones.
    """
    prefix = prefix.rstrip(".")
    if prefix:
        _check_prefix(model, prefix)
    found = [
        module
        for name, layer in _layers(model)
        if isinstance(layer, nn.Linear) and _is_within(name, prefix)
        for module in [_info(model, name, layer)]
    ]
    if not found:
        raise ModelError(f"No linear layer in '{prefix}': give a shorter --prefix.")
    return found


def find_modules_by_pattern(model: Any, pattern: str, prefix: str = "") -> list[ModuleInfo]:
    """Modules whose name holds a match of a regular expression, in the model's order.

    Put it between `^` and `$` to see what PEFT would wrap: as `target_modules` it must match the whole name.

    Args:
        model: of a known family, bare or wrapped by PEFT (whose own layers are left out).
        pattern: regular expression.
        prefix: only modules in the module of this path.

    Raises:
        ConfigError: no regular expression.
        ModelError: nothing matches; names near ones.
    """
    prefix = prefix.rstrip(".")
    if prefix:
        _check_prefix(model, prefix)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"'{pattern}' is no regular expression: {error}. Escape signs that are meant as such."
        ) from None
    modules = [(name, module) for name, module in _modules(model) if name and _is_within(name, prefix)]
    found = [_info(model, name, module) for name, module in modules if expression.search(name)]
    if not found:
        last_parts = {name.rpartition(".")[2] for name, _ in modules if not name[-1].isdigit()}
        raise ModelError(f"No module's name matches '{pattern}'. {nearest(pattern, last_parts)}")
    return found


def _modules(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the bare model with their bare names: a layer that PEFT wraps is given as it was."""
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") or ".lora_" in f".{name}":
            continue
        bare = bare_name(f"{name}.").removesuffix(".")
        if bare and not bare.startswith("base_model"):
            yield bare, module


def _layers(model: Any) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in _modules(model) if isinstance(module, _TARGETABLE))


def _info(model: Any, name: str, module: nn.Module) -> ModuleInfo:
    if isinstance(module, nn.Linear):  # of a 4-bit layer, the weight's own shape is that of its packed bytes
        shape: tuple[int, ...] = (module.out_features, module.in_features)
        bias = 0 if module.bias is None else module.bias.numel()
        num_parameters = module.out_features * module.in_features + bias
    else:
        weight = getattr(module, "weight", None)
        shape = tuple(weight.shape) if isinstance(weight, nn.Parameter) else ()
        num_parameters = sum(parameter.numel() for parameter in module.parameters())
    return ModuleInfo(name, _area_of_module(model, name), type(module).__name__, shape, num_parameters)


def _area_of_module(model: Any, name: str) -> str | None:
    try:
        return family(model.config).area_of(f"{name}.")
    except ModelError:
        return None


def _num_blocks(model: Any) -> dict[str, int]:
    longest: Counter[str] = Counter()
    for name, module in _modules(model):
        if isinstance(module, nn.ModuleList) and (area := _area_of_module(model, name)) is not None:
            longest[area] = max(longest[area], len(module))
    return longest


def _tied(model: Any) -> tuple[tuple[str, str], ...]:
    first: dict[int, str] = {}
    pairs = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), bare_name(name))
        if known != bare_name(name):
            pairs.append((bare_name(name), known))
    return tuple(pairs)


def _layer_names(model: Any, layers: Sequence[tuple[str, nn.Module]]) -> tuple[LayerName, ...]:
    row = family(model.config)
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for name, layer in layers:
        parts = name.split(".")
        last = ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])
        counts.setdefault(last, Counter())[row.area_of(f"{name}."), type(layer).__name__] += 1
    order = list(row.areas)
    return tuple(
        LayerName(
            name,
            tuple(
                LayerPlace(area, kind, count)
                for (area, kind), count in sorted(found.items(), key=lambda item: order.index(item[0][0]))
            ),
        )
        for name, found in counts.items()
    )


def _is_within(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def _check_prefix(model: Any, prefix: str) -> None:
    names = [name for name, _ in _modules(model)]
    if prefix not in names:
        raise ModelError(f"No module is called '{prefix}'. {_near_names(prefix, names)}")


def _near_names(prefix: str, names: Sequence[str]) -> str:
    """Paths that end in what was asked for, such as `model.visual` for `visual`; else those spelt alike."""
    last = prefix.rpartition(".")[2]
    inside = sorted((name for name in names if name.endswith(f".{prefix}")), key=len)
    alike = difflib.get_close_matches(prefix, names, n=_NUM_NEAR, cutoff=0.6)
    same_end = sorted((name for name in names if name.endswith(f".{last}")), key=len)
    near = (inside or alike or same_end)[:_NUM_NEAR]
    if near:
        return f"Did you mean {' or '.join(repr(name) for name in near)}?"
    return f"Known: {', '.join(name for name in names if name.count('.') < 2)}."
