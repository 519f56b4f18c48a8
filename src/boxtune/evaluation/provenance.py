"""What a reader must know of the model and the images before trusting figures: were they seen, was it taught this?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from boxtune.data.dataset import DetectionDataset
from boxtune.data.digests import image_digests, unpack_digests
from boxtune.documents import parse_json
from boxtune.errors import DataError
from boxtune.evaluation.ranking import BoolArray
from boxtune.inference.examples import examples_note
from boxtune.inference.prediction import AnyDetector
from boxtune.models.contract import RUN_FILE


def provenance(model: str, detector: AnyDetector, samples: DetectionDataset) -> tuple[str, ...]:
    """Notes for the console and the page; mostly none.

    Args:
        model: as it was loaded; of a folder with a `run.json`, which images its training has seen is known.
        detector: of that model.
        samples: that it is judged on.

    Raises:
        DataError: `run.json` is damaged.
    """
    seen = seen_note(seen_images(Path(model), samples))
    return tuple(filter(None, (detector.untaught_labels, examples_note(detector), seen)))


def seen_images(folder: Path, samples: DetectionDataset) -> BoolArray | None:
    """`[N]` which images the run in a folder was trained on, None where nothing is known of it.

    An image is known again by its id, size and boxes, whichever folder or split it lies in.

    Raises:
        DataError: `run.json` is damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        data: Any = parse_json(path.read_bytes())["data"]
        if "images" in data:
            return np.isin(image_digests(samples), unpack_digests(data["images"]))
        same = data["fingerprint"] == samples.fingerprint()  # of an earlier boxtune
        return np.ones(len(samples), bool) if same else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise DataError(f"{path}: {error}") from None
        raise DataError(f"{path} cannot be read ({error}): put back the one that the training wrote.") from None


def seen_note(seen: BoolArray | None) -> str | None:
    """A sentence where a model is judged on what it learned from."""
    if seen is None or not seen.any():
        return None
    if seen.all():
        return (
            "Every image was seen in training: the figures say what the model remembers, not what it finds in new ones."
        )
    count = int(seen.sum())
    return f"{count} of the {len(seen)} images were seen in training, and flatter the model: judge it on others."
