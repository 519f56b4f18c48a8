"""The whole head on random memories."""

from __future__ import annotations

import itertools

import pytest
import torch

from boxtune.models.detection_head.head import DetectionHead, HeadOutputs
from boxtune.models.detection_head.memory import Memory
from boxtune.models.detection_head.queries import Predictions
from models.detection_head.head_scenes import (
    END,
    alone,
    random_embedding,
    random_memory,
    small_config,
    small_head,
)

GRIDS, PROMPTS = [(2, 3), (4, 2), (1, 1)], [5, 2, 7]
EVERY_KIND = list(itertools.product(["learned", "tokens"], ["learned", "sine", "none"]))
every_kind = pytest.mark.parametrize(("queries", "positions"), EVERY_KIND)


@every_kind
def test_an_image_does_not_depend_on_those_beside_it(queries, positions):
    """Padding included: alone, in a batch, and in a batch in another order."""
    head, memory = small_head(queries=queries, positions=positions), random_memory(GRIDS, PROMPTS)
    together = head(memory)
    order = torch.tensor([2, 0, 1])
    shuffled = head(Memory(*(field[order] for field in memory)))
    torch.testing.assert_close(shuffled.found.box_logits, together.found.box_logits[order], atol=1e-5, rtol=0)
    for number in range(len(GRIDS)):
        single = head(alone(memory, number))
        torch.testing.assert_close(single.states[0], together.states[number], atol=1e-5, rtol=0)
        torch.testing.assert_close(single.found.boxes[0], together.found.boxes[number], atol=1e-5, rtol=0)


@every_kind
def test_every_parameter_is_trained(queries, positions):
    head, memory = small_head(queries=queries, positions=positions), random_memory(GRIDS, PROMPTS)
    outputs = head(memory)
    parts: list[Predictions] = [*outputs.layers, *([outputs.proposals] if outputs.proposals else [])]
    logits = head.caption_logits(outputs.states[:, 0], torch.tensor([[3, 4, END]] * 3), random_embedding())
    told = [p.objectness_logits.sum() + p.boxes.square().sum() for p in parts]
    (torch.stack(told).sum() + logits.log_softmax(-1)[..., 3].sum()).backward()
    still = {name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()}
    # an adapter's way down waits for its way up, which starts at zero; positions past the label are not asked for;
    # keys' biases cancel in a softmax up to rounding
    waiting = {name for name in still if ".adapter.down." in name or ".adapter.norm." in name}
    assert still - waiting == set()


def test_positions_tell_where_a_token_lies():
    """Without them an image is a heap of tokens: their order changes nothing."""
    for positions, told in [("none", False), ("sine", True), ("learned", True)]:
        head, memory = small_head(positions=positions), random_memory([(3, 3)], [4])
        order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
        for part in ("vision", "image"):
            mixed = memory._replace(**{part: getattr(memory, part)[:, order]})
            same = torch.allclose(head(mixed).states, head(memory).states, atol=1e-4)
            assert same is not told, (positions, part)


def test_boxes_of_token_queries_are_told_against_the_tokens_proposals():
    head, memory = small_head(queries="tokens"), random_memory([(3, 3)], [4])
    torch.nn.init.zeros_(head.heads.box[-1].weight)
    torch.nn.init.zeros_(head.heads.box[-1].bias)
    outputs = head(memory)
    strongest = outputs.proposals.objectness_logits[0].topk(6).indices
    for layer in outputs.layers:
        torch.testing.assert_close(layer.boxes[0], outputs.proposals.boxes[0, strongest])


def test_seeds_make_heads():
    first, second, other = small_head(0), small_head(0), small_head(1)
    memory = random_memory(GRIDS, PROMPTS)
    assert torch.equal(first(memory).states, second(memory).states)
    assert not torch.equal(first(memory).states, other(memory).states)


def test_states_in_bf16_and_autocast():
    head, memory = small_head(queries="tokens"), random_memory(GRIDS, PROMPTS)
    exact = head(memory)
    rounded = memory._replace(
        vision=memory.vision.bfloat16(), image=memory.image.bfloat16(), prompt=memory.prompt.bfloat16()
    )
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head(rounded)
    assert outputs.found.boxes.dtype == outputs.found.objectness_logits.dtype == torch.float32
    half: HeadOutputs = small_head(queries="tokens").bfloat16()(rounded)
    assert half.found.boxes.dtype == torch.float32
    for approximate in (outputs, half):  # proposals, not queries, whose order a rounding may change
        difference = (approximate.proposals.boxes - exact.proposals.boxes).detach().abs()
        assert float(difference.max()) < 0.05


def test_dropout_acts_in_training_only():
    head, memory = DetectionHead(small_config(dropout=0.3)), random_memory(GRIDS, PROMPTS)
    assert not torch.equal(head(memory).states, head(memory).states)
    head.eval()
    assert torch.equal(head(memory).states, head(memory).states)
