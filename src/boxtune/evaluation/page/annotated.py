"""Pictures of a COCO file, as far as they lie where it says; empty frames of the right size for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from PIL import Image

from boxtune.data.formats.coco import read_file
from boxtune.data.records import Draft, check_draft
from boxtune.errors import DataError
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.page.gallery import PictureOf
from boxtune.evaluation.page.pictures import Thumbnail, thumbnail

NO_PICTURE: Final = "no picture"

_GREY = (128, 128, 128)


def pictures_of_annotations(annotations: Path, judged: Sequence[Sequence[JudgedImage]]) -> PictureOf:
    """Opens the picture of an image when it is asked for.

    Args:
        annotations: a COCO file.
        judged: images of each model, of `read_scored(annotations, …)`.
    """
    try:
        drafts = {draft.id: draft for draft in read_file(annotations).drafts}
    except DataError:  # it can be scored, but is no data set: one without names of categories or files
        drafts = {}

    def open_picture(place: int) -> tuple[str, Thumbnail]:
        sample_id = judged[0][place].sample_id
        draft = drafts.get(sample_id)
        opened = None if draft is None else _opened(draft)
        if opened is not None:
            return opened
        return f"{sample_id} · {NO_PICTURE}", _frame([images[place] for images in judged], draft)

    return open_picture


def _opened(draft: Draft) -> tuple[str, Thumbnail] | None:
    """None where there is no such picture, or where boxes are not in its upright frame."""
    try:
        record = check_draft(replace(draft, boxes=[]))
        if draft.declared_hw not in (None, record.image_hw):
            return None
        return record.caption, thumbnail(record.open_image())
    except DataError:
        return None


def _frame(judged: Sequence[JudgedImage], draft: Draft | None) -> Thumbnail:
    """Nothing but grey: of the declared size, else as large as the boxes need."""
    corners = [(x, y) for one in judged for of in (one.truth, one.predicted) for _, _, x, y in of.xyxy.tolist()]
    height, width = (draft.declared_hw if draft is not None else None) or (
        math.ceil(max((y for _, y in corners), default=1)),
        math.ceil(max((x for x, _ in corners), default=1)),
    )
    uri = thumbnail(Image.new("RGB", (8, 8), _GREY)).uri
    return Thumbnail(uri, max(1, width), max(1, height))
