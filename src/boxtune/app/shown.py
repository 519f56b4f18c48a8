"""What was found, as HTML: pictures with boxes that stay sharp at any size, side by side where two models are compared.

Boxes are elements over the picture. Those below the threshold are hidden by the page itself, so that moving it asks no
model. Everything that comes from data is escaped by the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from boxtune.app.asking import Look, Picture
from boxtune.detections import Detections
from boxtune.evaluation.page.pictures import thumbnail
from boxtune.evaluation.page.render import render
from boxtune.inference.detector import Decoder
from boxtune.inference.draw import label_colour, readable_on

LONGEST_PX: Final = 1280
"""Side of a picture on the page; larger ones are shown smaller."""

MAX_BOXES: Final = 500
"""Drawn on one picture; the caption counts them all."""


@dataclass(frozen=True)
class Side:
    """One model's looks at all pictures.

    Attributes:
        model: its name.
        decoder: it was asked by.
        labels: that were looked for.
        looks: one a picture.
    """

    model: str
    decoder: Decoder
    labels: tuple[str, ...]
    looks: tuple[Look, ...]


@dataclass(frozen=True)
class ShownBox:
    """A box in per cent of the picture, for the template."""

    left: float
    top: float
    width: float
    height: float
    label: str
    score: float | None
    corners_px: tuple[float, ...]
    colour: str = ""
    ink: str = ""

    @property
    def text_inside(self) -> bool:
        """No room for text above the box."""
        return self.top < 7

    @property
    def text_at_right(self) -> bool:
        """The text would leave the picture if it began at the left corner."""
        return self.left > 60


def shown_html(pictures: Sequence[Picture], sides: Sequence[Side], threshold: float) -> str:
    """All pictures with what each side found.

    Args:
        pictures: that were asked about.
        sides: one or two models.
        threshold: boxes with a lower score are hidden at first.
    """
    labels = list(dict.fromkeys(label for side in sides for label in side.labels))
    rows = [
        {
            "name": picture.name,
            "thumbnail": thumbnail(picture.image, LONGEST_PX, quality=88),
            "truth": [] if picture.truth is None else shown_boxes(picture.truth, picture, labels),
            "sides": [_side(side, side.looks[place], picture, labels) for side in sides],
        }
        for place, picture in enumerate(pictures)
    ]
    return render("app/found.html", pictures=rows, threshold=threshold)


def _side(side: Side, look: Look, picture: Picture, labels: Sequence[str]) -> dict[str, object]:
    found = look.prediction.result.detections
    return {
        "model": side.model,
        "decoder": side.decoder,
        "boxes": shown_boxes(found, picture, labels),
        "num_boxes": len(found),
        "seconds": look.seconds,
        "prediction": look.prediction,
    }


def shown_boxes(detections: Detections, picture: Picture, labels: Sequence[str]) -> list[ShownBox]:
    """The first `MAX_BOXES`, cut at the picture's border, the surest last so that they lie above."""
    height, width = picture.image.height, picture.image.width
    inside = detections.clipped((height, width)).xyxy
    scores = detections.scores
    order = range(len(detections)) if scores is None else scores.argsort(kind="stable").tolist()
    boxes = []
    for index in list(order)[-MAX_BOXES:]:
        x1, y1, x2, y2 = inside[index].tolist()
        label = detections.labels[index]
        colour = label_colour(label, labels)
        boxes.append(
            ShownBox(
                left=round(100 * x1 / width, 3),
                top=round(100 * y1 / height, 3),
                width=round(100 * (x2 - x1) / width, 3),
                height=round(100 * (y2 - y1) / height, 3),
                label=label,
                score=None if scores is None else round(float(scores[index]), 4),
                corners_px=tuple(detections.xyxy[index].tolist()),
                colour="#{:02x}{:02x}{:02x}".format(*colour),
                ink="#{:02x}{:02x}{:02x}".format(*readable_on(colour)),
            )
        )
    return boxes
