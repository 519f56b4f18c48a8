"""Pictures that others send: what is taken, and what is refused before a pixel is decoded."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from boxtune.errors import DataError, TooLargeError
from boxtune.inference.uploads import UploadLimits, check_upload, open_upload

LIMITS = UploadLimits(max_bytes=20_000, max_pixels=100_000)


def file_of(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF"])
def test_formats_that_are_taken(form):
    content = file_of(Image.new("RGB", (60, 40), "red"), form)
    assert check_upload(content, "x", LIMITS) == (40, 60)
    image = open_upload(content, "x", LIMITS)
    assert (image.mode, image.size) == ("RGB", (60, 40))


def test_a_phone_photo_stands_upright():
    exif = Image.Exif()
    exif[274] = 6
    content = file_of(Image.new("RGB", (60, 40)), "JPEG", exif=exif)
    assert check_upload(content, "x", LIMITS) == (60, 40)
    assert open_upload(content, "x", LIMITS).size == (40, 60)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(20_001), "20,001 bytes, the limit is 20,000"),
        (file_of(Image.new("1", (400, 251))), "400×251 pixels, the limit is 100,000"),
        (file_of(Image.new("1", (20_000, 9_000))), "'x'"),
        (file_of(Image.new("1", (60_000, 9_000))), "'x'"),
    ],
)
def test_too_much(content, words):
    with pytest.raises(TooLargeError, match=words):
        check_upload(content, "x", UploadLimits(20_000 if "bytes" in words else 10**6, 100_000))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no image"),
        (b"<svg/>", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (file_of(Image.new("RGB", (9, 9)))[:60], "cut short"),
        (file_of(Image.new("L", (401, 2))), "cut it into parts"),
    ],
)
def test_no_picture_for_a_model(content, words):
    with pytest.raises(DataError, match=words):
        open_upload(content, "x", LIMITS)


def test_nothing_is_decoded_before_it_is_checked(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(TooLargeError):
        open_upload(file_of_later, "x", UploadLimits(max_pixels=10))


file_of_later = file_of(Image.new("RGB", (60, 40)))
