"""What a trained model must be asked with: saved beside its weights, read before it is used.

Boxes are wrong without a sound when coordinates are read by another convention, or when images are resized to other
limits than in training. So both stand in `boxtune.json`, and a folder that contradicts itself is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from boxtune.documents import parse_json
from boxtune.errors import ModelError, some
from boxtune.models.families import Family, family

FILE_NAME = "boxtune.json"
RUN_FILE = "run.json"  # what a run was made of: beside the weights, and written before them
_VERSION = 1


@dataclass(frozen=True)
class Contract:
    """The agreement between training and inference.

    Attributes:
        model_type: family, as in config.json.
        boxes: coordinates and text form, as the codec describes itself.
        min_pixels, max_pixels: limits of the input image's area.
        labels: class names that the prompt names, in order.
        prompt, system: template and system message, None for the family's and the chat template's own.
        box_order: order of the boxes in an answer.
        max_new_tokens: longest answer to allow.
        quantized_base: of an adapter that was trained on a 4-bit base: `{"method": "nf4", "dtype": dtype of the
            weights before they were packed}`. The adapter loads on the unpacked base all the same; merging reads it.
        base_weights: of an adapter that was trained on an earlier stage of a recipe: the fingerprint of that stage's
            weights (see models/fingerprint.py).
        num_examples: worked examples that each question was shown with in training; it may be asked without.
        base_of_head: of a detection head that was trained alone: the model that it belongs to, which is not in the
            folder (see models/bases.py). None: the folder holds a model, or an adapter, which names its base itself.
    """

    model_type: str
    boxes: dict[str, str]
    min_pixels: int
    max_pixels: int
    labels: tuple[str, ...] = ()
    prompt: str | None = None
    system: str | None = None
    box_order: str = "raster"
    max_new_tokens: int = 1024
    quantized_base: dict[str, str] | None = None
    base_weights: str | None = None
    num_examples: int = 0
    base_of_head: dict[str, str] | None = None

    @property
    def family(self) -> Family:
        """The row of the families table."""
        return family(self.model_type)

    def untaught(self, labels: Sequence[str]) -> str | None:
        """A sentence where labels are asked for that the model was not trained on."""
        strange = [label for label in labels if self.labels and label not in self.labels]
        return f"The model was not taught {some(strange)}; it knows {some(self.labels)}." if strange else None

    def save(self, folder: Path) -> None:
        """Write `boxtune.json` into a folder."""
        text = json.dumps({"version": _VERSION, **asdict(self)}, indent=2, ensure_ascii=False)
        (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def default_contract(model_type: str, processor: Any) -> Contract:
    """For a model that was not trained here: its family's convention and its processor's own limits."""
    smallest, largest = pixel_limits(processor)
    return Contract(model_type, family(model_type).codec.describe(), smallest, largest)


def read_contract(folder: Path) -> Contract | None:
    """The contract of a folder, or None where it has none.

    Raises:
        ModelError: not readable, of a later version, or with boxes written in another way than the family's.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        fields = parse_json(path.read_bytes())
        if (version := fields.pop("version")) != _VERSION:
            raise ModelError(f"{path} has version {version}; this boxtune reads version {_VERSION}: update boxtune.")
        contract = Contract(**{**fields, "labels": tuple(fields["labels"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{path} cannot be read ({error}): save the model again with boxtune train or merge."
        ) from None
    if contract.boxes != contract.family.codec.describe():
        raise ModelError(
            f"{path} says that boxes are written as {contract.boxes}, this boxtune writes those of "
            f"{contract.model_type} as {contract.family.codec.describe()}: its boxes would be wrong. Train it again."
        )
    return contract


def pixel_limits(processor: Any) -> tuple[int, int]:
    """`(min_pixels, max_pixels)` of a processor's images."""
    size = processor.image_processor.size
    return int(size["shortest_edge"]), int(size["longest_edge"])


def set_pixel_limits(processor: Any, min_pixels: int, max_pixels: int) -> None:
    """Make a processor resize to these limits."""
    size = type(processor.image_processor.size)
    limits = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    processor.image_processor.size = limits if size is dict else size(**limits)


def check_pixel_limits(contract: Contract, processor: Any, folder: Path) -> None:
    """Refuse a processor that resizes otherwise than in training.

    Raises:
        ModelError: names both pairs of limits.
    """
    trained, found = (contract.min_pixels, contract.max_pixels), pixel_limits(processor)
    if trained != found:
        raise ModelError(
            f"{folder}: trained with images of {trained[0]}–{trained[1]} px, but its processor_config.json says "
            f"{found[0]}–{found[1]} px, and boxes would be shifted: restore the file, or train again with these limits."
        )
