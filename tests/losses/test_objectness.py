"""Focal loss against a loop written from the paper, and by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped
from torch.nn import functional as F

from boxtune.losses import objectness
from losses.tensor_shapes import Logits, Slots, Sum

SLOTS = st.lists(st.tuples(st.floats(-12, 12), st.booleans(), st.booleans()), min_size=1, max_size=12)


def focal_of_the_paper(logit: float, is_object: bool, alpha: float, gamma: float) -> float:
    """Equation 5 of arXiv 1708.02002."""
    p = 1 / (1 + math.exp(-logit))
    p_t, alpha_t = (p, alpha) if is_object else (1 - p, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * math.log(p_t)


@settings(max_examples=80, deadline=None)
@given(SLOTS, st.floats(0, 1), st.floats(0, 4))
def test_total_equals_a_loop(slots, alpha, gamma):
    logits = torch.tensor([[s[0] for s in slots]], dtype=torch.float64)
    is_object, mask = (torch.tensor([[s[i] for s in slots]]) for i in (1, 2))
    expected = sum(focal_of_the_paper(logit, truth, alpha, gamma) for logit, truth, counts in slots if counts)
    total = objectness.focal_total(logits, is_object, alpha=alpha, gamma=gamma, mask=mask)
    assert total.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_total_is_that_of_torchvision():
    torch.manual_seed(0)
    logits, is_object = torch.randn(3, 5) * 5, torch.rand(3, 5) < 0.3
    expected = torchvision.ops.sigmoid_focal_loss(logits, is_object.float(), reduction="sum")
    torch.testing.assert_close(objectness.focal_total(logits, is_object), expected)


def test_without_focus_it_is_half_of_cross_entropy():
    logits, is_object = torch.randn(3, 5), torch.rand(3, 5) < 0.3
    expected = F.binary_cross_entropy_with_logits(logits, is_object.float(), reduction="sum") / 2
    torch.testing.assert_close(objectness.focal_total(logits, is_object, alpha=0.5, gamma=0), expected)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    logits = (torch.randn(3, 5, dtype=torch.float64) * 4).requires_grad_()
    is_object, mask = torch.rand(3, 5) < 0.4, torch.rand(3, 5) < 0.8
    assert torch.autograd.gradcheck(lambda x: objectness.focal_total(x, is_object, mask=mask), logits)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[-200.0, 200.0, -200.0, 200.0]], requires_grad=True)
    total = objectness.focal_total(logits, torch.tensor([[True, True, False, False]]))
    total.backward()
    assert total.item() == pytest.approx(0.25 * 200 + 0.75 * 200)
    assert torch.isfinite(logits.grad).all()


@jaxtyped(typechecker=beartype)
def total(logits: Logits, is_object: Slots, mask: Slots) -> Sum:
    return objectness.focal_total(logits, is_object, mask=mask)


def test_shapes():
    total(torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool))
