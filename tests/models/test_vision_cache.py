"""Vision features on disk: what is read is what was written for this picture by this tower, or nothing."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxtune.models.contract import set_pixel_limits
from boxtune.models.padding import pad_vision_mlps
from boxtune.models.tiny import build_tiny
from boxtune.models.vision_cache import DamagedFeaturesError, KeptFeatures, VisionCache, settings_digest, used_bytes

SETTINGS, NAME = "a" * 40, "0" * 64


def kept(*shape: int, dtype: torch.dtype = torch.float32) -> KeptFeatures:
    numbers = torch.randn(shape or (1, 6, 8), generator=torch.Generator().manual_seed(0))
    return KeptFeatures(numbers.to(dtype), (1, 4, 6), (50, 80))


@pytest.fixture
def cache(tmp_path) -> VisionCache:
    return VisionCache(tmp_path / "cache", SETTINGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layers", [1, 4])
def test_what_is_read_is_what_was_written(cache, dtype, layers):
    written = kept(layers, 6, 8, dtype=dtype)
    assert cache.read(NAME) is None
    assert cache.num_pictures() == 0
    num_bytes = cache.write(NAME, written)
    found = cache.read(NAME)
    assert found is not None
    assert found.features.dtype == dtype
    assert torch.equal(found.features, written.features)
    assert (found.grid_thw, found.image_hw) == ((1, 4, 6), (50, 80))
    assert (num_bytes, cache.num_pictures()) == (cache.path(NAME).stat().st_size, 1)
    assert cache.write(NAME, kept(1, 6, 8)) == 0  # it is there
    assert [file.name for file in cache.folder.iterdir()] == [f"{NAME}.safetensors"]


def test_a_part_of_a_larger_tensor_is_written_alone(cache):
    whole = torch.randn(2, 100, 8)
    assert cache.write(NAME, KeptFeatures(whole[:, 10:16], (1, 4, 6), (50, 80))) < 2000
    found = cache.read(NAME)
    assert found is not None
    assert torch.equal(found.features, whole[:, 10:16])


@given(place=st.integers(0), change=st.integers(1, 255))
def test_no_damaged_byte_is_believed(tmp_path_factory, place, change):
    cache = VisionCache(tmp_path_factory.mktemp("c"), SETTINGS)
    cache.write(NAME, kept())
    content = bytearray(cache.path(NAME).read_bytes())
    content[place % len(content)] ^= change
    cache.path(NAME).write_bytes(content)
    found: KeptFeatures | None = kept()
    with contextlib.suppress(DamagedFeaturesError):  # but for a blank in the header, which nothing depends on
        found = cache.read(NAME)
    assert found is not None
    assert torch.equal(found.features, kept().features)
    assert (found.grid_thw, found.image_hw) == ((1, 4, 6), (50, 80))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x10\x00", id="a few bytes"),
        pytest.param((1 << 60).to_bytes(8, "little") + b"{}", id="endless header"),
        pytest.param((2).to_bytes(8, "little") + b"{}", id="nothing in it"),
        pytest.param((2).to_bytes(8, "little") + b"[]", id="no mapping"),
        pytest.param((40_000).to_bytes(8, "little") + b"[" * 40_000, id="endless nesting"),
        pytest.param(b"\x00" * 5000, id="zeros, as after a crash"),
    ],
)
def test_other_files_are_damaged_ones(cache, content):
    cache.folder.mkdir(parents=True)
    cache.path(NAME).write_bytes(content)
    with pytest.raises(DamagedFeaturesError, match=NAME):
        cache.read(NAME)
    cache.remove(NAME)
    assert cache.read(NAME) is None


def test_a_file_under_another_name_is_not_believed(cache):
    """Copied by hand, or found by a link: neither another picture's features nor another tower's."""
    cache.write(NAME, kept())
    cache.path("1" * 64).write_bytes(cache.path(NAME).read_bytes())
    with pytest.raises(DamagedFeaturesError, match="another picture or tower"):
        cache.read("1" * 64)
    other = VisionCache(cache.home, "b" * 40)
    cache.folder.rename(other.folder)
    with pytest.raises(DamagedFeaturesError, match="another picture or tower"):
        other.read(NAME)


def test_a_file_that_is_cut_short(cache):
    cache.write(NAME, kept())
    content = cache.path(NAME).read_bytes()
    for length in (3, 100, len(content) - 1):
        cache.path(NAME).write_bytes(content[:length])
        with pytest.raises(DamagedFeaturesError):
            cache.read(NAME)


def test_a_full_disk_leaves_nothing_behind(cache, monkeypatch):
    def half(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        cache.write(NAME, kept())
    assert list(cache.folder.iterdir()) == []
    assert cache.read(NAME) is None


# ---- what features depend on ----------------------------------------------------------------------------------------


def test_settings_tell_towers_and_pictures_apart():
    model, processor = build_tiny("qwen2_5_vl")
    facts = {"arithmetic": "fp32"}
    first = settings_digest(model, processor, facts)
    assert settings_digest(*build_tiny("qwen2_5_vl"), facts) == first
    found = {first, settings_digest(model, processor, {"arithmetic": "bf16"})}
    set_pixel_limits(processor, 3136, 12544)
    found.add(settings_digest(model, processor, facts))
    set_pixel_limits(processor, 3136, 12545)
    found.add(settings_digest(model, processor, facts))
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    found.add(settings_digest(model, processor, facts))
    with torch.no_grad():
        bias = model.model.visual.blocks[-1].norm2.weight
        bias[-1] = torch.nextafter(bias[-1], torch.tensor(9.0))  # the least that a weight can change
    found.add(settings_digest(model, processor, facts))
    model.model.visual.blocks[0].norm1.to(torch.bfloat16)
    found.add(settings_digest(model, processor, facts))
    model.config.vision_config.window_size //= 2
    found.add(settings_digest(model, processor, facts))
    assert len(found) == 8
    before = settings_digest(model, processor, facts)
    with torch.no_grad():
        model.model.language_model.layers[0].input_layernorm.weight[0] += 1  # what follows the tower does not matter
    assert settings_digest(model, processor, facts) == before


def test_a_padded_tower_is_the_same_tower():
    model, processor = build_tiny("qwen2_5_vl")
    model.config.vision_config.intermediate_size = 172
    for block in model.model.visual.blocks:
        block.mlp = type(block.mlp)(model.config.vision_config, bias=True)
    model.requires_grad_(False)
    before = settings_digest(copy.deepcopy(model), processor, {})
    assert "172 → 256" in pad_vision_mlps(model)
    assert settings_digest(model, processor, {}) == before


# ---- room -----------------------------------------------------------------------------------------------------------


def aged(cache: VisionCache, days: float, num_files: int = 2) -> VisionCache:
    for number in range(num_files):
        cache.write(f"{number:064}", kept())
    then = time.time() - days * 24 * 3600
    os.utime(cache.folder, (then, then))
    return cache


def test_room_is_made_by_what_nobody_uses(tmp_path):
    home = tmp_path / "cache"
    oldest, old, fresh = (
        aged(VisionCache(home, letter * 40), days) for letter, days in zip("bcd", (9, 5, 1), strict=True)
    )
    (home / "mine.txt").write_text("the user's")
    own = aged(VisionCache(home, SETTINGS), 30)
    each = used_bytes(home) // 4
    own.make_room(10 * each)
    assert [cache.num_pictures() for cache in (own, oldest, old, fresh)] == [2, 2, 2, 2]
    own.make_room(3 * each)
    assert [cache.num_pictures() for cache in (own, oldest, old, fresh)] == [2, 0, 2, 2]
    own.make_room(0)
    assert [cache.num_pictures() for cache in (own, oldest, old, fresh)] == [2, 0, 0, 2]  # in use, perhaps
    assert used_bytes(home) == 2 * each
    assert (home / "mine.txt").is_file()


def test_what_was_never_finished_is_removed(tmp_path):
    cache = aged(VisionCache(tmp_path, SETTINGS), 0, 1)
    names = [".left-behind", ".in-the-making"]
    for name, days in zip(names, (3, 0), strict=True):
        (cache.folder / name).touch()
        then = time.time() - days * 24 * 3600
        os.utime(cache.folder / name, (then, then))
    cache.make_room(10**9)
    assert sorted(file.name for file in cache.folder.iterdir()) == [".in-the-making", f"{0:064}.safetensors"]
