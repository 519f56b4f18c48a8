"""Which images two data sets share: a short digest of each image's record, so that a run can name what it has seen."""

from __future__ import annotations

import base64
import hashlib
import zlib

import numpy as np
import numpy.typing as npt

from boxtune.data.columns import record_columns
from boxtune.data.dataset import DetectionDataset
from boxtune.errors import DataError

Digests = npt.NDArray[np.uint32]

_MOST_BYTES = 2**28  # of what a stranger's file may unpack to: sixty million images
_BYTES = 4  # of another hundred thousand images, two or three have the digest of one of these


def image_digests(dataset: DetectionDataset) -> Digests:
    """`[N]` a digest of each image's id, size, boxes and labels; of one without boxes also of its split.

    Splits often number their images alike, and only boxes tell these apart.
    """
    digests = bytearray()
    for batch in record_columns(dataset.records):
        boxes, end = batch.xyxy.astype("<f8").tobytes(), 0
        for row in zip(batch.ids, map(tuple, batch.image_hw.tolist()), batch.box_labels, strict=True):
            start, end = end, end + 32 * len(row[-1])
            where = "" if row[-1] else dataset.split
            digests += hashlib.sha256(repr((*row, where)).encode() + boxes[start:end]).digest()[:_BYTES]
    return np.frombuffer(bytes(digests), dtype="<u4")


def pack_digests(digests: Digests) -> str:
    """As text for a JSON file, some five characters an image."""
    return base64.b64encode(zlib.compress(np.sort(digests).astype("<u4").tobytes())).decode("ascii")


def unpack_digests(text: str) -> Digests:
    """The other way round, sorted.

    Raises:
        DataError: the text was not made here.
    """
    try:
        return np.frombuffer(zlib.decompressobj().decompress(base64.b64decode(text, validate=True), _MOST_BYTES), "<u4")
    except (ValueError, zlib.error, TypeError) as error:
        raise DataError(f"These are no digests of images ({error}): train again.") from None
