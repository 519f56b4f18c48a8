"""A map from the scores a model gives to the share that comes true, saved beside its weights as plain numbers.

It is fitted by `boxtune calibrate` (see `evaluation/calibrate`). The map rises strictly, so the order of boxes,
and with it AP, stays what it was.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from scipy.special import expit, logit

from boxtune.detections import FloatArray
from boxtune.documents import parse_json
from boxtune.errors import ModelError, SaveError

FILE_NAME: Final = "calibration.json"
_VERSION: Final = 1
_KINDS: Final = ("temperature", "isotonic")
_NEVER_CERTAIN: Final = 1e-12  # logits of 0 and 1 are infinite
_TOO_LARGE: Final = 10**15  # whole numbers may have more digits than a float holds
_STEEPEST: Final = 1e3  # of temperature, its inverse and bias: beyond, no score says anything
_OWN_SHARE: Final = 1e-3  # of the score itself: flat steps become slopes, and no two boxes change places


@dataclass(frozen=True)
class Calibrator:
    """Scores in 0–1 to scores in 0–1.

    Attributes:
        kind: `temperature`: logit(score) / temperature + bias is the logit of the new score (Guo et al. 2017, arXiv
            1706.04599, with the bias of Platt 1999). `isotonic`: straight lines between the knots (Zadrozny and Elkan
            2002).
        temperature, bias: of the first kind.
        said, true: knots of the second kind, scores and the shares that came true; both rising.
        num_boxes: found boxes that it was fitted on.
    """

    kind: Literal["temperature", "isotonic"]
    temperature: float = 1.0
    bias: float = 0.0
    said: tuple[float, ...] = ()
    true: tuple[float, ...] = ()
    num_boxes: int = 0

    def apply(self, scores: FloatArray) -> FloatArray:
        """`[N]` scores → `[N]`, in the same order."""
        scores = np.asarray(scores, dtype=np.float64)
        if self.kind == "isotonic":
            mended = np.interp(scores, self.said, self.true)
        else:
            odds = logit(np.clip(scores, _NEVER_CERTAIN, 1 - _NEVER_CERTAIN))
            mended = expit(odds / self.temperature + self.bias)
        return np.clip((1 - _OWN_SHARE) * mended + _OWN_SHARE * scores, 0.0, 1.0)

    def save(self, folder: Path) -> None:
        """Write `calibration.json` into a model's folder.

        Raises:
            SaveError: it cannot be written.
        """
        text = json.dumps({"version": _VERSION, **asdict(self)}, indent=2)
        try:
            (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise SaveError(f"{folder / FILE_NAME} cannot be written: {error.strerror}. Make room there.") from None


def read_calibrator(folder: Path) -> Calibrator | None:
    """The calibrator of a model's folder, None where it has none.

    Raises:
        ModelError: the file is not what `save` writes; says what of it.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}): remove it, or make it anew by boxtune calibrate.") from None
    if wrong := _fault(content):
        raise ModelError(f"{path}: {wrong}: remove it, or make it anew by boxtune calibrate.")
    del content["version"]
    return Calibrator(**{**content, "said": tuple(content["said"]), "true": tuple(content["true"])})


def _fault(content: Any) -> str | None:
    """What is wrong with a file's content."""
    if not isinstance(content, dict) or content.keys() != {"version", *Calibrator.__dataclass_fields__}:
        return "it has not the keys that boxtune writes"
    if content["version"] != _VERSION:
        return f"it has version {content['version']!r}, this boxtune reads version {_VERSION}"
    if content["kind"] not in _KINDS:
        return f"kind {content['kind']!r} is not one of {', '.join(_KINDS)}"
    if not all(_is_number(content[key]) for key in ("temperature", "bias", "num_boxes")):
        return "temperature, bias and num_boxes must be finite numbers"
    if not 1 / _STEEPEST <= content["temperature"] <= _STEEPEST or abs(content["bias"]) > _STEEPEST:
        return f"temperature {content['temperature']:g} or bias {content['bias']:g} makes all scores alike"
    if not isinstance(content["num_boxes"], int) or content["num_boxes"] < 0:
        return f"num_boxes {content['num_boxes']} is no count"
    said, true = content["said"], content["true"]
    if not all(isinstance(knots, list) and all(map(_is_share, knots)) for knots in (said, true)):
        return "said and true must be lists of numbers in 0–1"
    if len(said) != len(true) or (content["kind"] == "isotonic" and not said):
        return "said and true must have a number for each knot"
    if any(b <= a for a, b in pairwise(said)) or sorted(true) != true:
        return "said and true must rise"
    return None


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and abs(value) < _TOO_LARGE and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
