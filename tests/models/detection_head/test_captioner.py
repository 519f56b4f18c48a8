"""Labels as tokens: taught with their true beginnings, written freely, or scored from a list."""

from __future__ import annotations

import math

import pytest
import torch

from boxtune.errors import ConfigError
from boxtune.losses import captions
from boxtune.models.detection_head import captioner as module
from boxtune.models.detection_head.captioner import NO_TOKEN, Captioner, encode_labels
from models.detection_head.head_scenes import END, HIDDEN, VOCABULARY, random_embedding, small_config

WIDTH = 16


class Letters:
    """A tokenizer of small letters: a is 3."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) - ord("a") + 3 for letter in text]}


def captioner_and_objects(count: int = 3) -> tuple[Captioner, torch.Tensor]:
    torch.manual_seed(0)
    return Captioner(small_config(caption_layers=2)).eval(), torch.randn(count, WIDTH)


def test_labels_end_and_are_padded():
    tokens = encode_labels(["ab", "d"], Letters(), small_config())
    assert tokens.tolist() == [[3, 4, END], [6, END, NO_TOKEN]]
    assert encode_labels([], Letters(), small_config()).shape == (0, 0)


def test_a_label_that_is_too_long_is_named():
    assert encode_labels(["abcd"], Letters(), small_config()).shape == (1, 5)
    with pytest.raises(ConfigError, match="'abcde' has 6 tokens, the detection head writes 5"):
        encode_labels(["a", "abcde"], Letters(), small_config())


def test_a_token_is_predicted_from_the_object_and_those_before_it():
    captioner, objects = captioner_and_objects()
    tokens, embedding = torch.tensor([[3, 4, 5, END]] * 3), random_embedding()
    before = captioner(objects, tokens, embedding)
    assert before.shape == (3, 4, VOCABULARY)
    assert not torch.allclose(before[0, 0], before[1, 0], atol=1e-3)  # from the object alone
    tokens[:, 1] = 9
    after = captioner(objects, tokens, embedding)
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2], before[:, 2], atol=1e-3)


def test_the_embedding_is_lent_and_tied():
    captioner, objects = captioner_and_objects()
    assert not any(VOCABULARY in p.shape for p in captioner.parameters())
    embedding = random_embedding().requires_grad_()
    logits = captioner(objects, torch.tensor([[3, END]] * 3), embedding)
    logits[:, 1, 7].sum().backward()
    used = embedding.grad.abs().sum(-1) > 0
    assert used.nonzero()[:, 0].tolist() == [3, 7]  # as an input, as an output


def test_padding_changes_nothing():
    captioner, objects = captioner_and_objects()
    short = captioner(objects, torch.tensor([[3, END]] * 3), random_embedding())
    padded = captioner(objects, torch.tensor([[3, END, NO_TOKEN, NO_TOKEN]] * 3), random_embedding())
    torch.testing.assert_close(padded[:, :2], short)


def greedy_loop(captioner, state, embedding) -> tuple[list[int], float]:
    """One object at a time, the whole label through the teacher-forced path again for each token."""
    written, log_prob = [], 0.0
    while len(written) < captioner.max_tokens:
        logits = captioner(state[None], torch.tensor([[*written, 0]]), embedding)[0, -1]
        best = int(logits.argmax())
        log_prob += float(logits.log_softmax(-1)[best].detach())
        if best == END:
            break
        written.append(best)
    return written, log_prob


def test_writing_is_greedy_and_stops():
    captioner, objects = captioner_and_objects(12)
    embedding = random_embedding()
    embedding[END] *= 3  # so that some labels end early
    tokens, log_probs = captioner.write(objects, embedding)
    lengths = set()
    for state, row, log_prob in zip(objects, tokens.tolist(), log_probs.tolist(), strict=True):
        written, expected = greedy_loop(captioner, state, embedding)
        assert [token for token in row if token != NO_TOKEN] == written
        assert log_prob == pytest.approx(expected, abs=1e-4)
        lengths.add(len(written))
    assert {0, 5} <= lengths  # the scene has a label that ends at once and one that never does


def test_likelihoods_are_sums_over_the_tokens():
    captioner, objects = captioner_and_objects()
    embedding, labels = random_embedding(), torch.tensor([[3, 4, END], [5, END, NO_TOKEN]])
    found = captioner.log_likelihoods(objects, labels, embedding)
    for k in range(3):
        for number, row in enumerate(labels.tolist()):
            row = [token for token in row if token != NO_TOKEN]
            log_p = captioner(objects[k : k + 1], torch.tensor([row]), embedding)[0].log_softmax(-1)
            expected = sum(float(log_p[place, token].detach()) for place, token in enumerate(row))
            assert float(found[k, number]) == pytest.approx(expected, abs=1e-4)


def test_likelihoods_of_all_labels_of_one_token_add_up_to_one():
    captioner, objects = captioner_and_objects()
    every = torch.tensor([[token] for token in range(VOCABULARY)])
    total = captioner.log_likelihoods(objects, every, random_embedding()).exp().sum(-1)
    assert total.tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_likelihoods_in_pieces_are_the_same(monkeypatch):
    captioner, objects = captioner_and_objects()
    labels, embedding = torch.tensor([[3, 4, END], [5, END, NO_TOKEN]]), random_embedding()
    whole = captioner.log_likelihoods(objects, labels, embedding)
    monkeypatch.setattr(module, "_MOST_LOGITS", 2 * 3 * VOCABULARY)  # two pairs at a time, of six
    torch.testing.assert_close(captioner.log_likelihoods(objects, labels, embedding), whole)


def test_no_objects_have_no_labels():
    captioner, _ = captioner_and_objects()
    nothing = torch.zeros(0, WIDTH)
    assert captioner.write(nothing, random_embedding())[0].shape[0] == 0
    assert captioner.log_likelihoods(nothing, torch.tensor([[3, END]]), random_embedding()).shape == (0, 1)


def test_a_batch_without_objects_gives_every_parameter_a_gradient_of_zero():
    """Processes that train together wait for the gradient of every parameter."""
    captioner, _ = captioner_and_objects()
    tokens = encode_labels([], Letters(), small_config())
    logits = captioner(torch.zeros(0, WIDTH), tokens, random_embedding())
    captions.total(logits, tokens).backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in captioner.parameters())


def test_an_embedding_in_bf16_gives_logits_near_those_of_fp32():
    captioner, objects = captioner_and_objects()
    tokens, embedding = torch.tensor([[3, END]] * 3), random_embedding()
    exact, rounded = (captioner(objects, tokens, e).log_softmax(-1) for e in (embedding, embedding.bfloat16()))
    assert rounded.dtype == torch.bfloat16
    assert float((exact - rounded).detach().abs().max()) < math.sqrt(HIDDEN) * 2**-4
