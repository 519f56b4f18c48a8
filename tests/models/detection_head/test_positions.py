from __future__ import annotations

import math

import pytest
import torch

from boxtune.models.detection_head.memory import token_centres
from boxtune.models.detection_head.positions import GridPositions, LearnedPositions, sine_positions


def test_sines_are_those_of_a_loop():
    out = sine_positions(torch.tensor([[0.25, 0.7]]), 8)[0].tolist()
    expected = []
    for value in (0.25, 0.7):
        angles = [value * 2 * math.pi * 16, value * 2 * math.pi * 16 / 20]
        expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    assert out == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["learned", "sine"])
def test_places_are_told_apart_whatever_the_size_of_the_grid(kind):
    torch.manual_seed(0)
    positions = GridPositions(kind, 16)
    for rows, columns in [(3, 5), (20, 30)]:
        vectors = positions(token_centres(rows, columns)).detach()
        distances = torch.cdist(vectors, vectors) + 10 * torch.eye(rows * columns)
        assert float(distances.min()) > 0.05


@pytest.mark.parametrize("kind", ["learned", "sine"])
def test_the_same_place_in_two_grids_has_the_same_vector(kind):
    positions = GridPositions(kind, 16)
    middle_of_three, middle_of_nine = positions(token_centres(3, 3))[4], positions(token_centres(9, 9))[40]
    torch.testing.assert_close(middle_of_three, middle_of_nine)


def test_learned_vectors_lie_between_their_neighbours():
    positions = LearnedPositions(4)
    at = torch.tensor([[1.5, 2.5], [2.0, 2.5], [2.5, 2.5]]) / 32  # centres of places 1 and 2, and half way
    left, between, right = positions(at)
    torch.testing.assert_close(between, (left + right) / 2)
    torch.testing.assert_close(left, torch.cat([positions.tables[0, 1], positions.tables[1, 2]]))


def test_learned_vectors_hold_to_the_borders():
    positions = LearnedPositions(4)
    corners = positions(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(corners, positions.tables[:, [0, -1]].transpose(0, 1).flatten(1))


def test_none_is_zero():
    assert float(GridPositions("none", 8)(token_centres(2, 2)).abs().sum()) == 0
