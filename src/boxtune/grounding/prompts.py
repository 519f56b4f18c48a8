"""What the model is asked, and the order in which the answer lists its boxes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from boxtune.detections import Detections
from boxtune.errors import ConfigError, nearest
from boxtune.grounding.codec import TextForm

BoxOrder = Literal["raster", "size", "as_given"]
_ORDERS = ("raster", "size", "as_given")
_BRACES = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")


def build_prompt(template: str | None, labels: Sequence[str], form: TextForm) -> str:
    """The question for these labels.

    Args:
        template: a text with exactly one `{labels}`; `{{` and `}}` stand for braces that stay. None is the wording
            that models of this form know (`form.default_prompt`).
        labels: the categories to look for, in this order; written as in answers, special tokens neutralised.
        form: the text form of the family.

    Raises:
        ConfigError: no labels, or a template with anything but one `{labels}` in braces.
    """
    if not labels:
        raise ConfigError("A prompt needs at least one label to look for: set the labels of the data set.")
    listed = ", ".join(form.write_label(label) for label in labels)
    template = form.default_prompt if template is None else template
    check_template(template)
    replacements = {"{{": "{", "}}": "}", "{labels}": listed}
    return _BRACES.sub(lambda match: replacements[match[0]], template)


def check_template(template: str) -> None:
    """Refuse a prompt template that does not hold exactly one `{labels}`, or holds anything else in braces.

    Raises:
        ConfigError: with what to write instead.
    """
    fields = [brace for brace in _BRACES.findall(template) if brace not in ("{{", "}}")]
    strange = [brace for brace in fields if brace != "{labels}"]
    if strange:
        raise ConfigError(
            f"The prompt template holds {strange[0][:40]!r}, but only {{labels}} is filled in. "
            "Write {{ and }} for braces that stay."
        )
    if len(fields) != 1:
        raise ConfigError(f"The prompt template must hold {{labels}} exactly once, not {len(fields)} times.")


def order_boxes(detections: Detections, order: BoxOrder, image_hw: tuple[int, int]) -> Detections:
    """Detections in a declared order, so that one image has one right answer.

    Args:
        detections: boxes in pixels of the upright image.
        order: `raster`: top to bottom, then left to right, by the upper left corner; `size`: largest area first;
            `as_given`: unchanged. Ties fall back on the raster order, then on the other corner, the label, and last
            the order given.
        image_hw: `(height, width)`; boxes are compared as cut at the borders of the image.

    Raises:
        ConfigError: an unknown order.
    """
    if order not in _ORDERS:
        raise ConfigError(f"Unknown order of boxes {order!r}. {nearest(str(order), _ORDERS)}")
    if order == "as_given":
        return detections
    visible = detections.clipped(image_hw)
    x1, y1, x2, y2 = visible.xyxy.T
    sizes = -visible.areas if order == "size" else np.zeros(len(detections))
    keys = zip(sizes.tolist(), y1.tolist(), x1.tolist(), y2.tolist(), x2.tolist(), detections.labels, strict=True)
    ranked = [index for _, index in sorted((key, index) for index, key in enumerate(keys))]
    return detections.select(np.array(ranked, dtype=np.intp))
