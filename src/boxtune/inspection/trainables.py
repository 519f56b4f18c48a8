"""What a run would train, freeze, wrap and quantise, and how much memory its weights take: before anything is loaded.

The areas are prepared and counted by the same functions as in training, on a copy on the meta device; nothing is
decided here anew.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from boxtune.errors import ModelError
from boxtune.inspection.architecture import list_linear_modules
from boxtune.models.areas import AreaSummary, LowRank, Training, bare_name, prepare_for_training, summarize
from boxtune.models.detection_head.config import DetectionHeadConfig
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.families import Family, family
from boxtune.models.quantize import COMPUTE_DTYPE

QUANTIZABLE = ("language",)  # areas that models/quantize.py packs where it is asked for
GRADIENT_AND_ADAMW = 12  # bytes a trained weight: fp32 gradient and two moments
# bitsandbytes 0.50: `functional.quantize_4bit(compress_statistics=True)` with its default block sizes
_BLOCK, _BLOCKS_PER_STATISTIC = 64, 256
_PER_LAYER = 16 * 4 + 256 * 4 + 4  # tables of the 16 and the 256 values in fp32, and the mean of the block constants
_BF16, _FP32 = 2, 4


@dataclass(frozen=True)
class AreaMemory:
    """Bytes of one area's weights, kept in three ways.

    Attributes:
        area: name in the families table.
        bf16: every weight in bf16.
        nf4: linear layers in 4 bits, the rest in bf16; None where boxtune does not quantise the area.
        low_rank: adapters of the rank asked for, as they are trained (fp32); None where LoRA has no target.
        num_targets: layers that LoRA would wrap.
    """

    area: str
    bf16: int
    nf4: int | None
    low_rank: int | None
    num_targets: int


@dataclass(frozen=True)
class TrainingPlan:
    """What a run with these settings makes of a model.

    Attributes:
        quantized_areas: areas whose linear layers are kept in 4 bits.
        low_rank: shape of the adapters.
        areas: after freezing, wrapping, opening and packing.
    """

    quantized_areas: tuple[str, ...]
    low_rank: LowRank
    areas: tuple[AreaSummary, ...]

    @property
    def num_parameters(self) -> int:
        """All weights, adapters included."""
        return sum(area.num_parameters for area in self.areas)

    @property
    def num_trainable(self) -> int:
        """Weights that a step changes."""
        return sum(area.num_trainable for area in self.areas)

    @property
    def num_weight_bytes(self) -> int:
        """Of all weights, as the run keeps them."""
        return sum(area.num_bytes for area in self.areas)

    @property
    def num_optimizer_bytes(self) -> int:
        """Gradients and moments of AdamW, in fp32; activations come on top."""
        return self.num_trainable * GRADIENT_AND_ADAMW


def summarize_trainables_by_area(model: Any, quantized_areas: Collection[str] = ()) -> list[AreaSummary]:
    """Tensors, parameters, bytes and dtypes of each area, and how much of them is trained.

    Args:
        model: of a known family, bare or wrapped by PEFT; on the meta device or loaded, also in 4 bits.
        quantized_areas: count the linear layers of these areas as if they were in 4 bits; for a model that is not.

    Raises:
        ModelError: unknown family, or a parameter outside its areas.
    """
    row = family(model.config)
    packed = _packable_weights(model, quantized_areas)
    rows = summarize(model, row)
    return [_as_packed(model, row, area, packed) if area.area in quantized_areas else area for area in rows]


def plan_training(
    model: Any,
    training: Mapping[str, Training],
    low_rank: LowRank,
    quantized_areas: Collection[str] = (),
    dtype: torch.dtype = torch.bfloat16,
    head: DetectionHeadConfig | None = None,
) -> TrainingPlan:
    """Prepare a copy of a skeleton as training prepares a model, and count what came of it.

    Args:
        model: bare, on the meta device (see `boxtune.inspection.skeleton`); it is not changed.
        training: area → `frozen`, `lora` or `full`, for `vision`, `merger` and `language`.
        low_rank: shape of the adapters.
        quantized_areas: areas whose linear layers are kept in 4 bits.
        dtype: that the frozen weights are loaded in.
        head: of the detection head that is trained beside the model, if any.

    Raises:
        ModelError: an adapter instead of a model, a rule that matches nothing, everything frozen, or an area that is to
            be trained in full in 4 bits.
    """
    row = family(model.config)
    if hasattr(model, "peft_config"):
        raise ModelError("This is an adapter: merge it first (boxtune merge), then train the merged folder.")
    _check_quantized(row, training, quantized_areas)
    model = copy.deepcopy(model).to(dtype)
    _settle_biases(model, _packable_weights(model, quantized_areas))
    prepared = _prepared(model, row, training, low_rank, head)
    return TrainingPlan(
        tuple(quantized_areas), low_rank, tuple(summarize_trainables_by_area(prepared, quantized_areas))
    )


def compare_memory(model: Any, low_rank: LowRank) -> list[AreaMemory]:
    """The ways to keep each area that has weights of its own, side by side.

    Args:
        model: bare, on the meta device; it is not changed.
        low_rank: shape of the adapters.

    Raises:
        ModelError: unknown family, or a parameter outside its areas.
    """
    row = family(model.config)
    sizes: dict[str, dict[str, int]] = {area: {} for area in row.areas}
    for name, parameter in model.named_parameters():
        sizes[row.area_of(name)][name] = parameter.numel()
    packed = _packable_weights(model, QUANTIZABLE)
    adapters = _adapter_sizes(model, row, low_rank)
    return [
        AreaMemory(
            area,
            _BF16 * sum(weights.values()),
            _mixed_bytes(weights, packed) if area in QUANTIZABLE else None,
            *adapters.get(area, (None, 0)),
        )
        for area, weights in sizes.items()
        if weights
    ]


def nf4_bytes(num_weights: int) -> int:
    """Memory of one layer's weight in NF4 with double quantisation, its block constants and tables included.

    Half a byte a weight; a byte for each block of 64; fp32 for each 256 blocks (QLoRA, arXiv 2305.14314, §3); and the
    tables that bitsandbytes keeps with every layer.
    """
    blocks = math.ceil(num_weights / _BLOCK)
    return math.ceil(num_weights / 2) + blocks + 4 * math.ceil(blocks / _BLOCKS_PER_STATISTIC) + _PER_LAYER


def _check_quantized(row: Family, training: Mapping[str, Training], quantized_areas: Collection[str]) -> None:
    for area in quantized_areas:
        if area not in QUANTIZABLE:
            raise ModelError(
                f"The area '{area}' of {row.model_type} is not quantised; known: {', '.join(QUANTIZABLE)}."
            )
        if training.get(area) == "full":
            raise ModelError(
                f"adapter.{area}=full cannot be combined with 4 bits, which no step can change: "
                f"set adapter.{area}=lora or frozen, or model.quantize=none."
            )


def _packable_weights(model: Any, areas: Collection[str]) -> set[str]:
    """Weights that go to 4 bits: those of the area's linear layers, as models/quantize.py chooses them."""
    patterns = [family(model.config).lora_targets[area] for area in areas]
    layers = list_linear_modules(model) if patterns else []
    return {f"{layer.name}.weight" for layer in layers if any(re.fullmatch(p, layer.name) for p in patterns)}


def _settle_biases(model: Any, packed: Collection[str]) -> None:
    """Packed layers keep their biases in what they compute in (models/quantize.py, `settle`)."""
    for name in packed:
        bias = model.get_submodule(name.removesuffix(".weight")).bias
        if bias is not None:
            bias.data = bias.data.to(COMPUTE_DTYPE)


def _as_packed(model: Any, row: Family, area: AreaSummary, packed: Collection[str]) -> AreaSummary:
    """The summary of an area once some of its weights are in 4 bits."""
    num_bytes, dtypes = 0, set()
    for name, parameter in model.named_parameters():
        bare = bare_name(name)
        if row.area_of(bare) != area.area:
            continue
        if bare in packed:
            num_bytes += nf4_bytes(parameter.numel())
            dtypes.add("nf4")
        else:
            num_bytes += parameter.numel() * parameter.element_size()
            dtypes.add(str(parameter.dtype).removeprefix("torch."))
    return replace(area, num_bytes=num_bytes, dtypes=tuple(sorted(dtypes)))


def _mixed_bytes(weights: Mapping[str, int], in_4_bits: Collection[str]) -> int:
    return sum(nf4_bytes(num) if name in in_4_bits else _BF16 * num for name, num in weights.items())


def _adapter_sizes(model: Any, row: Family, low_rank: LowRank) -> dict[str, tuple[int, int]]:
    """Area → `(bytes, layers)` of its adapters: A is `[rank, in]`, B `[out, rank]`, and DoRA's lengths are `[out]`.

    Reckoned, since PEFT takes a second to wrap every layer of a large model; a test holds it to what PEFT makes.
    """
    layers = list_linear_modules(model)
    sizes = {}
    for area, pattern in row.lora_targets.items():
        shapes = [layer.shape for layer in layers if re.fullmatch(pattern, layer.name)]
        weights = sum(low_rank.rank * (wide + high) + high * low_rank.use_dora for high, wide in shapes)
        sizes[area] = (_FP32 * weights, len(shapes))
    return sizes


def _prepared(
    model: Any, row: Family, training: Mapping[str, Training], low_rank: LowRank, head: DetectionHeadConfig | None
) -> Any:
    """The model itself, changed as training changes it."""
    with torch.device("meta"):  # else PEFT would draw the adapters' random weights first
        return prepare_for_training(model, row, training, low_rank, None if head is None else DetectionHead(head))
