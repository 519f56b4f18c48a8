"""Cross-entropy against a plain double loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxtune.losses import language

IGNORED = language.IGNORED
VOCABULARY = 7
LABELS = st.tuples(st.integers(1, 4), st.integers(2, 9)).flatmap(
    lambda shape: st.lists(
        st.lists(st.sampled_from([IGNORED, IGNORED, *range(VOCABULARY)]), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


def loop(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
    """−Σ log p of each label, predicted by the column before it."""
    total, count = 0.0, 0
    for row in range(labels.shape[0]):
        for column in range(1, labels.shape[1]):
            label = int(labels[row, column])
            if label == IGNORED:
                continue
            scores = [float(x) for x in logits[row, column - 1]]
            highest = max(scores)
            total += highest + math.log(sum(math.exp(s - highest) for s in scores)) - scores[label]
            count += 1
    return total, count


def kept(logits: torch.Tensor, targets) -> torch.Tensor:
    """What a model returns for `forward_options`."""
    return logits[:, language.forward_options(targets)["logits_to_keep"]]


@settings(max_examples=80, deadline=None)
@given(LABELS, st.integers(0, 10**6))
def test_total_and_count_equal_a_loop(rows, seed):
    labels = torch.tensor(rows)
    logits = torch.randn(*labels.shape, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 5
    targets = {"labels": labels}
    total, count = loop(logits, labels)
    assert float(language.total(kept(logits, targets), targets)) == pytest.approx(total, rel=1e-5, abs=1e-5)
    assert int(language.count(targets)) == count


def test_logits_are_kept_only_where_a_label_is_predicted():
    labels = torch.tensor([[5, IGNORED, 1, IGNORED, IGNORED], [IGNORED, IGNORED, 2, IGNORED, 3]])
    assert language.forward_options({"labels": labels})["logits_to_keep"].tolist() == [1, 3]
    assert int(language.count({"labels": labels})) == 3


def test_first_label_of_a_row_is_never_predicted():
    labels = torch.tensor([[3, IGNORED, IGNORED]])
    assert language.forward_options({"labels": labels})["logits_to_keep"].tolist() == []


def test_nothing_to_learn_is_zero_with_a_gradient():
    """A micro-batch without labels must neither be NaN nor break the backward pass of its step."""
    targets = {"labels": torch.full((2, 5), IGNORED)}
    logits = torch.randn(2, 5, VOCABULARY, requires_grad=True)
    total = language.total(kept(logits, targets), targets)
    total.backward()
    assert total.item() == 0
    assert int(language.count(targets)) == 0
    assert float(logits.grad.abs().sum()) == 0


def test_bf16_logits_are_summed_in_fp32():
    labels = torch.randint(0, VOCABULARY, (1, 4000), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(1, 4000, VOCABULARY, generator=torch.Generator().manual_seed(1)).bfloat16()
    targets = {"labels": labels}
    total = language.total(kept(logits, targets), targets)
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(loop(logits.float(), labels)[0], rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(0, 10**6))
def test_teacher_and_student_have_each_their_own_labels(rows, seed):
    labels, noise = torch.tensor(rows), torch.Generator().manual_seed(seed)
    logits = torch.randn(*labels.shape, VOCABULARY, generator=noise) * 5
    is_example = torch.rand(labels.shape, generator=noise) < 0.5
    targets = language.label_targets(labels, is_example)
    sums, counts = language.totals(kept(logits, targets), targets), language.counts(targets)
    for name, hidden in (("student", is_example), ("teacher", ~is_example)):
        total, count = loop(logits, labels.masked_fill(hidden, IGNORED))
        assert float(sums[name]) == pytest.approx(total, rel=1e-5, abs=1e-5)
        assert int(counts[name]) == count


def test_the_parts_are_weighed_over_their_own_tokens():
    sums = {"student": torch.tensor(6.0), "teacher": torch.tensor(10.0), "box_l1": torch.tensor(99.0)}
    counts = {"student": torch.tensor(3), "teacher": torch.tensor(20), "box_l1": torch.tensor(1)}
    assert float(language.weighted(sums, counts, language.LanguageLossConfig(2.0, 0.5))) == 2.0 * 2 + 0.5 * 0.5
    sums["teacher"] = torch.tensor(float("nan"))
    assert float(language.weighted(sums, counts, language.LanguageLossConfig(1.0, 0.0))) == 2.0
    alone = {"language": torch.tensor(6.0)}
    assert float(language.weighted(alone, {"language": torch.tensor(3)}, language.LanguageLossConfig(9.0))) == 2.0
