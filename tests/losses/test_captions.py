"""Cross-entropy of labels against a loop, and by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from boxtune.losses import captions
from boxtune.losses.language import IGNORED
from losses.tensor_shapes import Sum, TokenLogits, Tokens

TOKENS = torch.tensor([[3, 1, 0], [2, IGNORED, IGNORED], [4, 4, IGNORED]])


def test_total_and_count_equal_a_loop():
    logits = torch.randn(3, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    expected, counted = 0.0, 0
    for row in range(3):
        for place in range(3):
            token = int(TOKENS[row, place])
            if token == IGNORED:
                continue
            scores = logits[row, place].tolist()
            expected += math.log(sum(math.exp(s) for s in scores)) - scores[token]
            counted += 1
    assert float(captions.total(logits, TOKENS)) == pytest.approx(expected)
    assert int(captions.count(TOKENS)) == counted == 6


def test_gradients_are_those_of_finite_differences():
    logits = torch.randn(3, 3, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: captions.total(x, TOKENS), logits)


def test_no_labels_are_zero_with_a_gradient():
    logits = torch.zeros(0, 3, 5, requires_grad=True)
    total = captions.total(logits, torch.zeros(0, 3, dtype=torch.long))
    total.backward()
    assert total.item() == 0


def test_bf16_logits_are_summed_in_fp32():
    logits = torch.randn(3, 3, 5).bfloat16()
    total = captions.total(logits, TOKENS)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, captions.total(logits.float(), TOKENS))


@jaxtyped(typechecker=beartype)
def total(logits: TokenLogits, tokens: Tokens) -> Sum:
    return captions.total(logits, tokens)


def test_shapes():
    total(torch.randn(3, 3, 5), TOKENS)
