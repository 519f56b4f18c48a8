"""What a vision tower is told of its pictures is what it would have worked out itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import vision_utils

from boxtune.models.families import FAMILIES
from boxtune.models.vision_geometry import grids_of, vision_geometry

CPU = torch.device("cpu")
each_family = pytest.mark.parametrize("model_type", FAMILIES)
even = st.integers(1, 12).map(lambda n: 2 * n)
one_grid = st.tuples(st.integers(1, 2), even, even)


def known_to_transformers(tower, grids) -> dict[str, torch.Tensor | int]:
    """By its own functions, of all pictures at once."""
    thw = torch.tensor(grids)
    borders = vision_utils.get_vision_cu_seqlens(thw)
    found = {
        "position_ids": vision_utils.get_vision_position_ids(thw, tower.config.spatial_merge_size),
        "cu_seqlens": borders,
        "max_seqlen": int(borders.diff().max()),
    }
    if hasattr(tower, "window_size"):
        order, borders = vision_utils.get_vision_window_index(thw, 2, tower.window_size, tower.patch_size)
        found |= {"window_index": order, "cu_window_seqlens": borders, "max_window_seqlen": int(borders.diff().max())}
    if hasattr(tower, "pos_embed"):
        indices, weights = vision_utils.get_vision_interpolation_indices_and_weights(
            thw, tower.num_grid_per_side, mode="bilinear", align_corners=True, spatial_merge_size=2
        )
        found |= {"interp_indices": indices, "interp_weights": weights}
    return found


@each_family
@settings(max_examples=25, deadline=None)
@given(grids=st.lists(one_grid, min_size=1, max_size=5))
def test_the_same_as_transformers_works_out(tiny, model_type, grids):
    tower = tiny(model_type)[0].model.visual
    expected, found = known_to_transformers(tower, grids), vision_geometry(tower, grids, CPU)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, int):
            assert found[name] == value
        else:
            assert found[name].dtype == value.dtype, name
            assert torch.equal(found[name], value), name


@pytest.mark.parity
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@each_family
def test_a_tower_that_is_told_sees_the_same(tiny, model_type, attention):
    """Every argument is taken: one that the tower did not know would be handed on to its blocks."""
    tower = tiny(model_type)[0].model.visual
    before = tower.config._attn_implementation
    tower.set_attn_implementation(attention)
    grids = [(1, 8, 12), (1, 4, 4), (1, 12, 2)]
    width = 3 * tower.config.temporal_patch_size * tower.config.patch_size**2
    pixels = torch.randn(sum(rows * columns for _, rows, columns in grids), width)
    with torch.no_grad():
        plain = tower(pixels, grid_thw=torch.tensor(grids))
        told = tower(pixels, grid_thw=torch.tensor(grids), **vision_geometry(tower, grids, CPU))
    tower.set_attn_implementation(before)
    assert torch.equal(plain.pooler_output, told.pooler_output)


def test_grids_as_numbers():
    assert grids_of(torch.tensor([[1, 2, 4], [3, 4, 6]])) == [(1, 2, 4), (3, 4, 6)]
