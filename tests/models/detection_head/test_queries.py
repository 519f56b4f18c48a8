from __future__ import annotations

import pytest
import torch

from boxtune.models.detection_head.memory import token_centres
from boxtune.models.detection_head.positions import GridPositions
from boxtune.models.detection_head.queries import LearnedQueries, PredictionHeads, TokenQueries, make_queries

WIDTH = 16


def token_inputs(rows: int = 3, columns: int = 4):
    torch.manual_seed(0)
    centres = token_centres(rows, columns).expand(2, -1, -1)
    mask = torch.ones(2, rows * columns, dtype=torch.bool)
    return torch.randn(2, rows * columns, WIDTH), mask, centres, GridPositions("sine", WIDTH)


def test_objects_are_rare_at_the_start():
    heads = PredictionHeads(WIDTH)
    assert heads.objectness.bias.item() == -2
    predictions = heads(torch.zeros(1, 3, WIDTH), torch.zeros(1, 3, 4))
    torch.testing.assert_close(predictions.objectness_logits.sigmoid(), torch.full((1, 3), 0.1192), atol=1e-4, rtol=0)


def test_boxes_are_shares_of_the_sides():
    predictions = PredictionHeads(WIDTH)(torch.randn(2, 3, WIDTH) * 100, torch.zeros(2, 3, 4))
    assert (predictions.boxes >= 0).all()
    assert (predictions.boxes <= 1).all()


def test_learned_queries_are_the_same_for_every_image():
    *image, grid = token_inputs()
    queries = LearnedQueries(50, WIDTH)
    start = queries(*image, grid)
    for part in start[:3]:
        assert part.shape[:2] == (2, 50)
        assert torch.equal(part[0], part[1])
    assert start.proposals is None
    centres = start.anchor_logits[0].detach().sigmoid()[:, :2]
    torch.testing.assert_close(start.positions[0], queries.positions + grid(centres))
    for axis in centres.unbind(-1):  # spread over the whole image
        assert torch.histc(axis, 4, 0, 1).min() > 0


def test_the_strongest_tokens_become_queries():
    tokens, mask, centres, grid = token_inputs()
    queries = TokenQueries(2, WIDTH)
    with torch.no_grad():
        queries.heads.box[-1].weight.zero_()
        queries.heads.box[-1].bias.zero_()
        queries.heads.objectness.weight.zero_()
        queries.heads.objectness.weight[0, 0] = 1
    tokens[..., 0] = torch.linspace(0, 1, 12)
    tokens[0, 5, 0], tokens[0, 2, 0] = 9, 8  # image 0: tokens 5 and 2; image 1: the last two
    start = queries(tokens, mask, centres, grid)
    places = start.anchor_logits.sigmoid()[..., :2]
    torch.testing.assert_close(places, torch.stack([centres[0, [5, 2]], centres[0, [11, 10]]]))
    torch.testing.assert_close(start.anchor_logits.sigmoid()[..., 2:], torch.full((2, 2, 2), 0.1))
    expected = queries.to_content(tokens[0, [5, 2]]) + queries.learned.content
    torch.testing.assert_close(start.content[0], expected)
    torch.testing.assert_close(start.positions[0], queries.learned.positions + grid(centres[0, [5, 2]]))


def test_padding_is_never_chosen_and_missing_tokens_leave_learned_queries():
    tokens, mask, centres, grid = token_inputs()
    mask[1, 3:] = False
    queries = TokenQueries(20, WIDTH)
    with torch.no_grad():
        queries.heads.objectness.weight.fill_(1)
    tokens[1, 3:] = 100  # would be the strongest
    start = queries(tokens, mask, centres, grid)
    for image, real in [(0, 12), (1, 3)]:
        untouched = torch.isclose(start.content[image], queries.learned.content).all(-1)
        assert untouched.tolist() == [False] * real + [True] * (20 - real)
        assert torch.equal(start.anchor_logits[image, real:], queries.learned.anchor_logits[real:])
    assert torch.equal(start.proposals.mask, mask)


def test_proposals_learn_from_their_own_loss_only():
    tokens, mask, centres, grid = token_inputs()
    queries = TokenQueries(4, WIDTH)
    start = queries(tokens, mask, centres, grid)
    (start.content.sum() + start.positions.sum() + start.anchor_logits.sum()).backward()
    assert all(p.grad is None for p in queries.heads.parameters())
    start = queries(tokens, mask, centres, grid)
    (start.proposals.box_logits.sum() + start.proposals.objectness_logits.sum()).backward()
    assert all(p.grad is not None for p in queries.heads.parameters())


@pytest.mark.parametrize(("kind", "expected"), [("learned", LearnedQueries), ("tokens", TokenQueries)])
def test_the_kind_asked_for(kind, expected):
    assert type(make_queries(kind, 3, WIDTH)) is expected
