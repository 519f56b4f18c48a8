"""What was found about a model, as tables for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from boxtune.console import say
from boxtune.inspection.architecture import Architecture, LayerName, ModuleInfo
from boxtune.inspection.trainables import GRADIENT_AND_ADAMW, AreaMemory, TrainingPlan
from boxtune.inspection.units import short_bytes, short_count

_NOTHING = "–"
_SHORT_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def print_architecture(architecture: Architecture, name: str, console: Console) -> None:
    """Areas with their sizes, tied weights, and the names that are no LoRA target by themselves."""
    say(
        console,
        f"{name}: {architecture.model_type}, {architecture.num_parameters:,} parameters, "
        f"{short_bytes(architecture.num_bytes)} in {' and '.join(architecture.dtypes)}",
    )
    table = _table("area", *("blocks", "linears", "tensors", "weights", "share", "memory"))
    for area in architecture.areas:
        table.add_row(
            area.area,
            str(area.num_blocks or _NOTHING),
            str(area.num_linears or _NOTHING),
            str(area.num_tensors),
            short_count(area.num_parameters),
            f"{area.num_parameters / architecture.num_parameters:.1%}",
            short_bytes(area.num_bytes),
        )
    console.print(table)
    for name_, shared in architecture.tied:
        say(console, f"Tied: {name_} is {shared}, one tensor, counted once (with the latter).")
    if several := _ambiguous(architecture.layer_names):
        say(console, f"Names of several areas or kinds, as a LoRA target too wide: {'; '.join(several)}.")


def print_modules(modules: Sequence[ModuleInfo], title: str, console: Console) -> None:
    """Modules with their shapes, those that differ only by a number in one line; the name last, whole, to be copied."""
    say(console, f"\n{title}: {len(modules)}")
    rows = [(group[0], len(group), _joint_name([module.name for module in group])) for group in _grouped(modules)]
    shapes = [_shape(module) for module, _, _ in rows]
    widest = max(map(len, shapes))
    for (module, count, name), shape in zip(rows, shapes, strict=True):
        size = short_count(module.num_parameters)
        say(console, f"{module.area or _NOTHING:<9} {count:>4} × {shape:<{widest}} {size:>7}  {name}")


def print_plan(plan: TrainingPlan, title: str, console: Console) -> None:
    """What would be trained, area by area, and the memory that it takes."""
    say(console, f"\n{title}")
    table = _table("area", "how", "tensors", "weights", "trained", "memory", "dtype")
    for area in plan.areas:
        table.add_row(
            area.area,
            f"{area.training}, 4-bit" if area.area in plan.quantized_areas else area.training,
            str(area.num_tensors),
            short_count(area.num_parameters),
            short_count(area.num_trainable) if area.num_trainable else _NOTHING,
            short_bytes(area.num_bytes),
            " ".join(_SHORT_DTYPES.get(dtype, dtype) for dtype in area.dtypes),
        )
    console.print(table)
    trained, kept = plan.num_trainable, short_bytes(plan.num_weight_bytes)
    say(
        console,
        f"Trained: {trained:,} of {plan.num_parameters:,} weights ({trained / plan.num_parameters:.3%}). "
        f"Memory: weights {kept}, and {short_bytes(plan.num_optimizer_bytes)} for gradients and AdamW "
        f"({GRADIENT_AND_ADAMW} bytes a trained weight); activations come on top.",
    )
    say(console, "No conflict: each rule found its layers, and nothing else is trained.")


def print_memory(memory: Sequence[AreaMemory], rank: int, console: Console) -> None:
    """The ways to keep the weights, side by side."""
    say(console, f"\nMemory of the weights: in bf16, in 4 bits (NF4, double quantisation), and of LoRA of rank {rank}")
    table = _table("area", "bf16", "4-bit", "LoRA", "on layers")
    for area in memory:
        table.add_row(
            area.area,
            short_bytes(area.bf16),
            _NOTHING if area.nf4 is None else short_bytes(area.nf4),
            _NOTHING if area.low_rank is None else short_bytes(area.low_rank),
            str(area.num_targets or _NOTHING),
        )
    with_4_bits = sum(area.bf16 if area.nf4 is None else area.nf4 for area in memory)
    adapters = sum(area.low_rank or 0 for area in memory)
    totals = [short_bytes(size) for size in (sum(area.bf16 for area in memory), with_4_bits, adapters)]
    table.add_row("all", *totals, str(sum(area.num_targets for area in memory)), style="bold")
    console.print(table)


def print_layer_names(architecture: Architecture, console: Console) -> None:
    """Every name of a layer, and how often it occurs in each area."""
    areas = [area.area for area in architecture.areas]
    say(console, "\nNames of layers, and how often each occurs. As a LoRA target a bare name reaches all of them:")
    table = _table("name", *areas)
    for layer in sorted(architecture.layer_names, key=lambda layer: not layer.is_ambiguous):
        cells = [", ".join(_counted(layer, area)) or _NOTHING for area in areas]
        name = f"{layer.name} !" if layer.is_ambiguous else layer.name
        table.add_row(name, *cells, style="yellow" if layer.is_ambiguous else None)
    console.print(table)
    if any(layer.is_ambiguous for layer in architecture.layer_names):
        say(console, "! layers of several areas or kinds: name the whole path, as boxtune's own patterns do.")


def _ambiguous(layers: Sequence[LayerName]) -> list[str]:
    """`gate_proj, up_proj (vision: 32, language: 28)`: names that occur alike together."""
    names: dict[str, list[str]] = {}
    for layer in layers:
        if layer.is_ambiguous:
            areas = dict.fromkeys(place.area for place in layer.places)
            where = ", ".join(f"{area}: {' and '.join(_counted(layer, area))}" for area in areas)
            names.setdefault(where, []).append(layer.name)
    return [f"{', '.join(alike)} ({where})" for where, alike in names.items()]


def _counted(layer: LayerName, area: str) -> list[str]:
    """`32`, and with their kind those that are no linear layers: `1 Conv3d`."""
    places = [place for place in layer.places if place.area == area]
    return [str(p.count) if "Linear" in p.kind else f"{p.count} {p.kind}" for p in places]


def _table(*headings: str) -> Table:
    """Numbers stay whole and to the right; where the terminal is narrow, text gives way."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        if heading in ("how", "dtype"):
            table.add_column(heading, overflow="fold", min_width=6)
        else:
            table.add_column(heading, justify="left" if heading in ("area", "name") else "right", no_wrap=True)
    return table


def _shape(module: ModuleInfo) -> str:
    return f"{module.shape[1]} → {module.shape[0]}" if "Linear" in module.kind else module.kind


def _grouped(modules: Sequence[ModuleInfo]) -> list[list[ModuleInfo]]:
    groups: dict[tuple[str, str, tuple[int, ...], int], list[ModuleInfo]] = {}
    for module in modules:
        key = (re.sub(r"(?<=\.)\d+(?=\.|$)", "#", module.name), module.kind, module.shape, module.num_parameters)
        groups.setdefault(key, []).append(module)
    return list(groups.values())


def _joint_name(names: Sequence[str]) -> str:
    """`a.0.b`, `a.1.b` → `a.{0…1}.b`; the numbers that are the same in all stay."""
    numbers = list(zip(*(map(int, re.findall(r"(?<=\.)\d+(?=\.|$)", name)) for name in names), strict=True))
    shown = iter(str(min(ns)) if len(set(ns)) == 1 else f"{{{min(ns)}…{max(ns)}}}" for ns in numbers)
    return re.sub(r"(?<=\.)\d+(?=\.|$)", lambda _: next(shown), names[0])
