"""L1 and generalised IoU against loops written from the paper, by hand, and by finite differences."""

from __future__ import annotations

import pytest
import torch
import torchvision
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped

from boxtune.losses import boxes
from losses.tensor_shapes import Column, PairBoxes, Pairwise, Row, Sum

SHARE = st.floats(0.01, 0.99)
BOX = st.tuples(SHARE, SHARE, SHARE, SHARE)
PAIRS = st.lists(st.tuples(BOX, BOX), min_size=0, max_size=6)


def corners(box):
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def giou_of_the_paper(a, b) -> float:
    """Algorithm 1 of arXiv 1902.09630, line by line, on corners."""
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    left, top, right, bottom = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    overlap = (right - left) * (bottom - top) if right > left and bottom > top else 0.0
    enclosing = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    union = area_a + area_b - overlap
    return overlap / union - (enclosing - union) / enclosing


def tensor(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


@settings(max_examples=80, deadline=None)
@given(PAIRS)
def test_totals_equal_loops(pairs):
    found, true = tensor([p[0] for p in pairs]), tensor([p[1] for p in pairs])
    distance = sum(abs(f - t) for a, b in pairs for f, t in zip(a, b, strict=True))
    lost = sum(1 - giou_of_the_paper(corners(a), corners(b)) for a, b in pairs)
    assert float(boxes.l1_total(found, true)) == pytest.approx(distance, abs=1e-9)
    assert float(boxes.giou_total(found, true)) == pytest.approx(lost, abs=1e-9)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0, 0, 2, 2], 1.0),
        ([0, 0, 1, 2], 0.5),
        ([2, 0, 4, 2], 0.0),  # side by side: no overlap, no gap
        ([4, 0, 6, 2], -1 / 3),  # a gap as large as each
        ([2, 2, 4, 4], -0.5),  # corner to corner: half of the enclosing box is empty
        ([0, 0, 0, 0], -0.0),  # a point inside
    ],
)
def test_generalised_iou_by_hand(other, expected):
    assert float(boxes.generalised_iou(tensor([0, 0, 2, 2]), tensor(other))) == pytest.approx(expected)


def test_generalised_iou_is_that_of_torchvision():
    torch.manual_seed(0)
    a, b = (boxes.to_xyxy(torch.rand(n, 4) + 0.01) for n in (7, 5))
    torch.testing.assert_close(boxes.generalised_iou(a[:, None], b), torchvision.ops.generalized_box_iou(a, b))


def test_boxes_without_area_are_no_division_by_zero():
    point = torch.zeros(1, 4, requires_grad=True)
    value = boxes.generalised_iou(point, torch.zeros(1, 4))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(point.grad).all()


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    found = (torch.rand(6, 4, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    true = torch.rand(6, 4, dtype=torch.float64) * 0.8 + 0.1
    assert torch.autograd.gradcheck(lambda x: boxes.l1_total(x, true), found)
    assert torch.autograd.gradcheck(lambda x: boxes.giou_total(x, true), found)


def test_no_pairs_are_zero_with_a_gradient():
    found = torch.rand(2, 4, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    total = boxes.l1_total(found[nothing], torch.zeros(0, 4)) + boxes.giou_total(found[nothing], torch.zeros(0, 4))
    total.backward()
    assert total.item() == 0
    assert float(found.grad.abs().sum()) == 0


@jaxtyped(typechecker=beartype)
def total_of_pairs(found: PairBoxes, true: PairBoxes) -> Sum:
    return boxes.l1_total(found, true) + boxes.giou_total(found, true)


@jaxtyped(typechecker=beartype)
def giou_of_all(a: Column, b: Row) -> Pairwise:
    return boxes.generalised_iou(boxes.to_xyxy(a), boxes.to_xyxy(b))


def test_shapes():
    total_of_pairs(torch.rand(3, 4), torch.rand(3, 4))
    giou_of_all(torch.rand(2, 1, 4), torch.rand(5, 4))
