"""Files that are called pictures: bombs, strips, other formats, damage. Refused in one line, or harmless."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from boxtune.data.dataset import load_dataset
from boxtune.data.images import IMAGE_FORMATS, IMAGE_SUFFIXES, open_upright_rgb, probe_image
from boxtune.errors import DataError
from boxtune.inference.detector import load_detector

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n"
STRANGE = {
    "eps": EPS,
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
    "xbm": b"#define im_width 8\n#define im_height 1\nstatic char im_bits[]={0x00};",
    "html": b"<!doctype html><title>404</title>",
    "zip": b"PK\x03\x04" + bytes(60),
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "nothing": b"",
}


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A small file that says it is large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
def test_what_is_no_picture_is_refused_whatever_its_name(tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for read in (probe_image, open_upright_rgb):
        with pytest.raises(DataError, match=r"photo\.jpg' is no image that can be read"):
            read(path)


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    """Pillow hands EPS to Ghostscript."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was started"))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    with pytest.raises(BaseException, match="Ghostscript was started"):
        Image.open(io.BytesIO(EPS)).load()  # so it would be
    with pytest.raises(DataError):
        open_upright_rgb(EPS, "photo.jpg")


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "JPEG2000", "IM", "PCX"])
def test_formats_that_nobody_needs_are_not_decoded(kind):
    with pytest.raises(DataError, match="it must be JPEG, PNG"):
        probe_image(saved(Image.new("RGB", (32, 32)), kind), "photo.jpg")


def test_every_suffix_has_a_format_that_is_decoded():
    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in IMAGE_SUFFIXES} <= set(IMAGE_FORMATS)


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 20_000), (10_000, 10_000), (2**31 - 1, 1)])
def test_a_bomb_is_refused_before_it_is_unpacked(size):
    content = png(*size)
    assert len(content) < 100
    tracemalloc.start()
    for read in (probe_image, open_upright_rgb):
        with pytest.raises(DataError, match="the limit is 89478485: a small file can fill the memory"):
            read(content, "bomb.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_bomb_of_text_beside_the_pixels_is_refused_or_left_packed():
    text = zlib.compress(bytes(200_000_000), 9)
    chunk = b"zTXt" + b"k\0\0" + text
    small = saved(Image.new("RGB", (4, 4)), "PNG")
    content = small[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + small[33:]
    tracemalloc.start()
    with contextlib.suppress(DataError):
        open_upright_rgb(content, "text.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (100_000, 20)])
def test_a_strip_is_read_and_refused_where_a_model_would_see_it(tmp_path, size):
    image = Image.new("L", size)
    assert open_upright_rgb(saved(image, "PNG")).size == size
    with pytest.raises(DataError, match=f"{size[0]}×{size[1]}"):
        load_detector("tiny:qwen2_vl", device="cpu").detect([image.convert("RGB")], labels=["a"])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_what_moves_the_first_picture_is_read(kind):
    colours = ["red", "blue", "green"]
    first, *rest = [Image.new("RGB", (20, 10), colour) for colour in colours]
    content = saved(first, kind, save_all=True, append_images=rest)
    assert open_upright_rgb(content).size == probe_image(content).image_hw[::-1] == (20, 10)
    red, green, blue = np.asarray(open_upright_rgb(content))[5, 10].tolist()
    assert red > 240
    assert max(green, blue) < 15


def test_a_large_scan_of_sixteen_bits_takes_little_more_than_its_pixels():
    side = 2000
    content = saved(Image.fromarray(np.full((side, side), 65535, np.uint16)), "PNG")
    tracemalloc.start()
    assert open_upright_rgb(content).getpixel((0, 0)) == (255, 255, 255)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * side * side


@pytest.mark.parametrize("kept", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_a_cut_picture_is_one_bad_record(tmp_path, kind, kept):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), kind)
    (tmp_path / "a.jpg").write_bytes(content[: int(kept * len(content))])
    row = {"image": "a.jpg", "objects": [{"bbox_xyxy_px": [1, 1, 9, 9], "label": "a"}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"a\.jpg"):  # at its header, or when it is decoded
        _ = load_dataset(tmp_path, "train")[0]
