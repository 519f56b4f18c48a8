"""Positions of packed batches against the models' own `get_rope_index`, which serves padded ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from boxtune.collators.positions import text_and_mrope_positions
from boxtune.models.families import FAMILIES

MERGE = 2
SIDES = st.integers(1, 9)
# what stands in a conversation, in order: a run of text tokens, or an image of rows × columns merged tokens
PARTS = st.lists(st.one_of(st.integers(1, 5), st.tuples(SIDES, SIDES)), min_size=1, max_size=7)


def conversation(parts) -> tuple[torch.Tensor, torch.Tensor]:
    """`[L]` vision mask and `[images, 3]` grid; each image between two marks, as templates write it."""
    mask: list[bool] = []
    grids = []
    for part in parts:
        if isinstance(part, int):
            mask += [False] * part
        else:
            rows, columns = part
            mask += [False, *[True] * (rows * columns), False]
            grids.append([1, rows * MERGE, columns * MERGE])
    return torch.tensor(mask), torch.tensor(grids, dtype=torch.long).reshape(-1, 3)


@pytest.mark.parametrize("model_type", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(parts=PARTS)
@example(parts=[(3, 4), (2, 7)])
@example(parts=[1, (1, 1), (9, 1), 5, (1, 9)])
@example(parts=[4])
def test_equal_to_the_models_own(tiny, model_type, parts):
    mask, grid = conversation(parts)
    model = tiny(model_type)[0].model
    ids = torch.where(mask, model.config.image_token_id, 300)[None]
    expected, _ = model.get_rope_index(
        ids, mm_token_type_ids=mask.int()[None], image_grid_thw=grid if len(grid) else None
    )
    ours = text_and_mrope_positions(mask, grid, MERGE)
    assert torch.equal(ours[1:], expected[:, 0])
    assert torch.equal(ours[0], torch.arange(len(mask)))


def test_by_hand():
    """Two tokens of text, an image of 2 × 3, one token of text."""
    mask = torch.tensor([False] * 2 + [True] * 6 + [False])
    expected = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    assert text_and_mrope_positions(mask, torch.tensor([[1, 4, 6]]), MERGE).tolist() == expected


def test_two_images_without_marks_between_them():
    mask = torch.tensor([True] * (4 + 2))
    rows = text_and_mrope_positions(mask, torch.tensor([[1, 4, 4], [1, 2, 4]]), MERGE)
    assert rows[1:].tolist() == [[0, 0, 0, 0, 2, 2], [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 2, 3]]
