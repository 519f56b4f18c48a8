"""Little images and folders that the tests of the data room are made of."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ImageMaker = Callable[..., bytes]


def make_image(width: int = 40, height: int = 30, kind: str = "JPEG", orientation: int = 1, mode: str = "RGB") -> bytes:
    """A ramp of grey with some colour, as the bytes of a file."""
    ramp = np.linspace(0, 255, width * height).reshape(height, width).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp, 255 - ramp], axis=2)).convert(mode)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    return file.getvalue()


@pytest.fixture
def image_bytes() -> ImageMaker:
    return make_image


@pytest.fixture
def put_image() -> Callable[..., Path]:
    def put(path: Path, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_image(**{"kind": "PNG" if path.suffix == ".png" else "JPEG", **options}))
        return path

    return put


@pytest.fixture
def put_coco(put_image: Callable[..., Path]) -> Callable[..., Path]:
    """Write images `a.jpg`, `b.jpg` and their annotation file; `change` may spoil the content first."""

    def put(path: Path, change: Callable[[dict[str, Any]], None] | None = None, images: str = "images") -> Path:
        content: dict[str, Any] = {
            "images": [
                {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
                {"id": 2, "file_name": "b.jpg", "width": 40, "height": 30},
            ],
            "annotations": [
                {"id": 17, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20], "iscrowd": 0},
                {"id": 18, "image_id": 1, "category_id": 5, "bbox": [5.5, 6, 4, 4]},
            ],
            "categories": [{"id": 5, "name": "zebra"}, {"id": 3, "name": "ant"}],
        }
        for image in content["images"]:
            put_image(path.parent / images / image["file_name"])
        if change is not None:
            change(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return put
