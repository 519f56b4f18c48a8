"""A batch in two halves, for where it is too large for the memory: their sums of losses are those of the whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from boxtune.collators.batch import Batch
from boxtune.losses import detection
from boxtune.losses.detection import TrueObjects
from boxtune.losses.language import label_targets


def num_tokens(batch: Batch) -> int:
    """That the model computes, padding included."""
    return int(batch["inputs"]["input_ids"].numel())


def num_samples(batch: Batch) -> int:
    """Of a batch."""
    return len(batch["targets"]["sample_ids"])


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The first samples of a batch and the others; of a packed row, cut where both have about as many tokens.

    Args:
        batch: of two samples or more, as `Collator` makes them, on any device. Tensors are shared with it, not copied.
    """
    borders = _borders(batch)
    middle = min(range(1, len(borders) - 1), key=lambda border: abs(2 * borders[border] - borders[-1]))
    return _part(batch, borders, 0, middle), _part(batch, borders, middle, len(borders) - 1)


def _is_packed(batch: Batch) -> bool:
    return "cu_seq_lens_q" in batch["inputs"]


def _borders(batch: Batch) -> list[int]:
    """Where samples begin, and where the last ends: tokens laid end to end."""
    if _is_packed(batch):
        return list(batch["inputs"]["cu_seq_lens_q"].tolist())
    rows, length = batch["inputs"]["input_ids"].shape
    return [row * length for row in range(rows + 1)]


def _part(batch: Batch, borders: list[int], first: int, end: int) -> Batch:
    """Samples `[first, end)`."""
    each = _images_per_sample(batch)
    packed = _is_packed(batch)
    chosen = slice(borders[first], borders[end]) if packed else slice(first, end)
    own = {name: value for name, value in batch["inputs"].items() if name not in _OWN_WAY}
    inputs: dict[str, Any] = {name: _tokens(value, chosen, packed) for name, value in own.items()}
    if packed:
        for side in ("q", "k"):
            inputs[f"cu_seq_lens_{side}"] = batch["inputs"][f"cu_seq_lens_{side}"][first : end + 1] - borders[first]
            inputs[f"max_length_{side}"] = max(b - a for a, b in itertools.pairwise(borders[first : end + 1]))
    inputs["image_grid_thw"] = batch["inputs"]["image_grid_thw"][first * each : end * each]
    pixels, vision = _pictures(batch, first * each, end * each)
    is_example = batch["targets"].get("is_example")
    if is_example is not None:
        is_example = _tokens(is_example, chosen, packed)
    targets = label_targets(_tokens(batch["targets"]["labels"], chosen, packed), is_example)
    targets["sample_ids"] = batch["targets"]["sample_ids"][first:end]
    targets["grids"] = batch["targets"]["grids"][first * each : end * each]
    if "detection" in batch["targets"]:
        vision_rows = _num_vision_rows(batch, first)
        targets["detection"] = _objects(batch["targets"]["detection"], borders[first], vision_rows, first, end)
    return {"inputs": inputs | pixels, "targets": targets, **vision}


_OWN_WAY = (
    "pixel_values",
    "image_grid_thw",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "max_length_q",
    "max_length_k",
)


def _tokens(value: torch.Tensor, chosen: slice, packed: bool) -> torch.Tensor:
    """Columns of the one row of a packed batch, or rows of a padded one."""
    return value[..., chosen] if packed else value[chosen]


def _images_per_sample(batch: Batch) -> int:
    """Its own and those of its worked examples."""
    each, rest = divmod(len(batch["inputs"]["image_grid_thw"]), num_samples(batch))
    assert not rest, "every sample shows as many images"
    return each


def _num_vision_rows(batch: Batch, first: int) -> int:
    """Embeddings of the images before a sample, among those of all."""
    each, num_patches = _images_per_sample(batch), batch["inputs"]["image_grid_thw"].prod(dim=1)
    of_last = int(batch["targets"]["detection"]["memory"]["image_mask"][0].sum())  # tokens of the first sample's last
    return int(num_patches[: first * each].sum()) * of_last // int(num_patches[each - 1])


def _pictures(batch: Batch, first: int, end: int) -> tuple[dict[str, Any], Batch]:
    """Pixels, which those pictures have not whose features are kept on disk; and these."""
    num_patches = batch["inputs"]["image_grid_thw"].prod(dim=1).tolist()
    pictures = batch.get("vision", {}).get("pictures")
    is_kept = [False] * len(num_patches) if pictures is None else [picture.is_kept for picture in pictures]
    pixels: dict[str, Any] = {}
    if "pixel_values" in batch["inputs"]:
        rows = _rows_of(num_patches, [not kept for kept in is_kept], first, end)
        if rows.start < rows.stop:
            pixels["pixel_values"] = batch["inputs"]["pixel_values"][rows]
    if pictures is None:
        return pixels, {}
    vision = {"pictures": pictures[first:end]}
    if "kept" in batch["vision"]:
        rows = _rows_of([picture.num_tokens for picture in pictures], is_kept, first, end)
        if rows.start < rows.stop:
            vision["kept"] = batch["vision"]["kept"][:, rows]
    return pixels, {"vision": vision}


def _rows_of(sizes: Sequence[int], is_there: Sequence[bool], first: int, end: int) -> slice:
    """Of items `[first, end)` among those that are there, laid end to end."""
    before = [size * there for size, there in zip(sizes, is_there, strict=True)]
    return slice(sum(before[:first]), sum(before[:end]))


def _objects(targets: dict[str, Any], first_token: int, first_row: int, first: int, end: int) -> dict[str, Any]:
    """What a detection head is told of samples `[first, end)`."""
    memory = {name: value[first:end] for name, value in targets["memory"].items()}
    memory["vision_rows"] = (memory["vision_rows"] - first_row).clamp(min=0)  # padding is 0
    memory["image_columns"] = (memory["image_columns"] - first_token).clamp(min=0)
    memory["prompt_columns"] = (memory["prompt_columns"] - first_token).clamp(min=0)
    whole = TrueObjects(**targets["objects"])
    own = (whole.image >= first) & (whole.image < end)
    objects = TrueObjects(whole.boxes_cxcywh[own], whole.image[own] - first, whole.tokens[own], end - first)
    return {"memory": memory, "objects": objects._asdict(), "counts": detection.counts(objects)}
