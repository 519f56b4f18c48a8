from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boxtune.data.images import open_upright_rgb, probe_image, turn_boxes
from boxtune.errors import DataError


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_probe_tells_upright_and_stored_size_without_decoding(image_bytes, monkeypatch, kind, orientation):
    data = image_bytes(40, 30, kind, orientation)
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda self: pytest.fail("a pixel was decoded"))
        info = probe_image(data)
    assert info.stored_hw == (30, 40)
    assert info.orientation == orientation
    assert info.image_hw == ((40, 30) if orientation >= 5 else (30, 40))
    assert open_upright_rgb(data).size == info.image_hw[::-1]


@pytest.mark.parametrize("orientation", range(5, 9))
def test_boxes_turn_with_their_pixels(orientation):
    stored = np.zeros((30, 40, 3), np.uint8)
    box = np.array([[4.0, 6.0, 13.0, 9.0]])
    stored[6:9, 4:13] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(open_upright_rgb(saved(Image.fromarray(stored), exif=exif)))
    x0, y0, x1, y1 = turn_boxes(box, (30, 40), orientation)[0].astype(int)
    expected = np.zeros_like(upright)
    expected[y0:y1, x0:x1] = 255
    np.testing.assert_array_equal(upright, expected)


def test_orientation_written_after_the_pixels_of_a_png_is_found(image_bytes):
    plain, exif = image_bytes(40, 30, "PNG"), Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    data = plain[:-12] + chunk + plain[-12:]
    assert probe_image(data).image_hw == (40, 30)
    assert open_upright_rgb(data).size == (30, 40)


def test_all_modes_become_rgb():
    grey = np.array([[0, 100, 255]], np.uint8)
    table = {
        "L": (Image.fromarray(grey), [0, 100, 255]),
        "1": (Image.fromarray(grey > 99), [0, 255, 255]),
        "P": (Image.fromarray(grey).convert("P"), [0, 100, 255]),
        "LA": (Image.merge("LA", [Image.fromarray(grey), Image.fromarray(np.array([[255, 255, 0]], np.uint8))]), None),
        "I;16": (Image.fromarray(grey.astype(np.uint16) * 257), [0, 100, 255]),
    }
    for mode, (image, expected) in table.items():
        upright = open_upright_rgb(saved(image))
        assert upright.mode == "RGB"
        if expected is not None:
            assert np.asarray(upright)[0, :, 0].tolist() == expected, mode
    cmyk = saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")
    assert open_upright_rgb(cmyk).getpixel((2, 2)) == (255, 255, 255)


def test_transparent_pixels_are_laid_on_white():
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    assert np.asarray(open_upright_rgb(saved(rgba))).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert open_upright_rgb(saved(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert "transparency" not in open_upright_rgb(saved(palette, transparency=0)).info


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_cut_file_is_found_without_decoding(tmp_path, image_bytes, kind, kept):
    data = image_bytes(200, 200, kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DataError, match=r"cut\.\w+' was cut short"):
        probe_image(path)


def test_a_cut_photo_with_a_whole_preview_is_found_and_a_trailer_is_not_mistaken(image_bytes):
    data, preview = image_bytes(200, 200), image_bytes(16, 16)
    segment = b"\xff\xe1" + struct.pack(">H", len(preview) + 8) + b"Exif\0\0" + preview
    with_preview = data[:2] + segment + data[2:]
    assert probe_image(with_preview + b"a film that the camera appended" * 9).image_hw == (200, 200)
    with pytest.raises(DataError, match="cut short"):
        probe_image(with_preview[:-300])


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no image that can be read"), (b"<html>not found</html>", "no image that can be read")],
)
def test_files_that_are_no_images(tmp_path, content, words):
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    for function in (probe_image, open_upright_rgb):
        with pytest.raises(DataError, match=words) as caught:
            function(path)
        assert "odd.jpg" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_file_names_itself():
    with pytest.raises(DataError, match=r"gone\.jpg' does not exist"):
        probe_image(Path("gone.jpg"))


def test_broken_pixels_name_the_file(tmp_path, image_bytes):
    data = bytearray(image_bytes(60, 60, "PNG"))
    data[60:70] = b"\0" * 10
    path = tmp_path / "broken.png"
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"broken\.png' cannot be decoded"):
        open_upright_rgb(path)


@pytest.mark.parametrize("limit", [500, 1000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_bomb_is_refused_with_a_remedy(image_bytes, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"pixels, the limit is \d+.*Make the image smaller"):
        probe_image(image_bytes(40, 30), "bomb.jpg")


def test_sixteen_bit_is_scaled_not_clipped():
    image = Image.fromarray(np.array([[0, 25700, 65535]], np.uint16))
    assert np.asarray(open_upright_rgb(saved(image, "TIFF")))[0, :, 1].tolist() == [0, 100, 255]


def test_decimal_pixels_are_refused():
    with pytest.raises(DataError, match="decimal numbers"):
        open_upright_rgb(saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))
