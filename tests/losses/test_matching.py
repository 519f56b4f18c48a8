"""The cheapest assignment, against every assignment there is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped

from boxtune.losses.boxes import l1_total
from boxtune.losses.matching import MatchingCosts, match, pair_costs
from losses.tensor_shapes import FoundBoxes, Logits, Owners, PairCosts, PairIndex, TrueBoxes
from losses.test_boxes import corners, giou_of_the_paper

COSTS = MatchingCosts()


def scene(seed: int, counts: list[int], num_queries: int):
    noise = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(counts), num_queries, generator=noise)
    found = torch.rand(len(counts), num_queries, 4, generator=noise) * 0.8 + 0.1
    true = torch.rand(sum(counts), 4, generator=noise) * 0.8 + 0.1
    return logits, found, true, torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def cost_of_the_paper(logit: float, found, true, costs: MatchingCosts) -> float:
    """Equation 1 of arXiv 2005.12872 with its box loss: −p + λ L1 − λ GIoU (the constant 1 of 1 − GIoU left out)."""
    distance = sum(abs(f - t) for f, t in zip(found, true, strict=True))
    giou = giou_of_the_paper(corners(found), corners(true))
    p = 1 / (1 + math.exp(-logit))
    return costs.box_l1 * distance - costs.box_giou * giou - costs.objectness * p


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from([COSTS, MatchingCosts(0, 0, 1), MatchingCosts(1, 0, 0), MatchingCosts(0.3, 4, 0)]),
)
def test_no_assignment_is_cheaper(seed, counts, num_queries, costs):
    logits, found, true, owner = scene(seed, counts, num_queries)
    matches = match(logits, found, true, owner, costs=costs)
    for image in range(len(counts)):
        own = (owner == image).nonzero()[:, 0].tolist()
        pairs = [
            (int(q), int(b)) for i, q, b in zip(*(m.tolist() for m in matches), strict=True) if i == image and b in own
        ]
        assert len({q for q, _ in pairs}) == len({b for _, b in pairs}) == len(pairs) == min(len(own), num_queries)

        def price(query, box, image=image):
            return cost_of_the_paper(
                float(logits[image, query]), found[image, query].tolist(), true[box].tolist(), costs
            )

        if len(own) <= num_queries:
            every = (zip(queries, own, strict=True) for queries in itertools.permutations(range(num_queries), len(own)))
        else:
            every = (zip(range(num_queries), boxes, strict=True) for boxes in itertools.permutations(own, num_queries))
        cheapest = min(sum(price(q, b) for q, b in assignment) for assignment in every)
        assert sum(price(q, b) for q, b in pairs) == pytest.approx(cheapest, abs=1e-4)


def test_images_without_objects():
    logits, found, true, owner = scene(0, [0, 2, 0], 3)
    matches = match(logits, found, true, owner, costs=COSTS)
    assert matches.image.tolist() == [1, 1]
    nothing = match(logits, found, true[:0], owner[:0], costs=COSTS)
    assert [len(m) for m in nothing] == [0, 0, 0]


def test_masked_queries_are_given_nothing():
    logits, found, true, owner = scene(1, [2, 1], 4)
    found[0, :2], logits[0, :2] = true[:2], 10  # perfect, but not real
    mask = torch.tensor([[False, False, True, True], [False, False, False, False]])
    matches = match(logits, found, true, owner, costs=COSTS, mask=mask)
    assert matches.image.tolist() == [0, 0]
    assert set(matches.query.tolist()) == {2, 3}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_boxes_that_are_no_numbers_are_matched_so_that_the_loss_is_none_either(value):
    logits, found, true, owner = scene(3, [1], 3)
    found[0, 1, 2] = value
    matches = match(logits, found, true, owner, costs=COSTS)
    assert matches.query.tolist() == [1]
    assert not torch.isfinite(l1_total(found[matches.image, matches.query], true[matches.box]))


def test_matching_keeps_no_graph():
    logits, found, true, owner = scene(3, [2], 3)
    cost = pair_costs(logits.requires_grad_(), found.requires_grad_(), true, owner, COSTS)
    assert cost.requires_grad
    assert not any(m.requires_grad for m in match(logits, found, true, owner, costs=COSTS))


@jaxtyped(typechecker=beartype)
def costs_of(logits: Logits, found: FoundBoxes, true: TrueBoxes, owner: Owners) -> PairCosts:
    return pair_costs(logits, found, true, owner, COSTS)


@jaxtyped(typechecker=beartype)
def match_parts(image: PairIndex, query: PairIndex, box: PairIndex) -> int:
    return len(image)


def test_shapes():
    arguments = scene(4, [2, 0, 3], 4)
    costs_of(*arguments)
    assert match_parts(*match(*arguments, costs=COSTS)) == 5
