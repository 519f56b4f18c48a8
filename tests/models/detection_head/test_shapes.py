"""Shapes of public tensor functions. A letter means one size within a call.

N images, V image tokens, T tokens of text, H width of the large model, W of the head, Q queries, K objects.
"""

from __future__ import annotations

import torch
from beartype import beartype
from jaxtyping import Bool, Float, Int, jaxtyped

from boxtune.models.detection_head.captioner import Captioner
from boxtune.models.detection_head.head import DetectionHead, HeadOutputs
from boxtune.models.detection_head.memory import Memory, gather_memory, token_centres
from boxtune.models.detection_head.positions import sine_positions
from models.detection_head.head_scenes import END, HIDDEN, random_embedding, random_memory, small_config, small_head

Hidden = Float[torch.Tensor, "rows length h"]
Vision = Float[torch.Tensor, "tokens h"]
VisionRows = Int[torch.Tensor, "n v"]
PromptRows = Int[torch.Tensor, "n t"]
VisionStates = Float[torch.Tensor, "n v h"]
PromptStates = Float[torch.Tensor, "n t h"]
VisionMask = Bool[torch.Tensor, "n v"]
PromptMask = Bool[torch.Tensor, "n t"]
Centres = Float[torch.Tensor, "n v 2"]
States = Float[torch.Tensor, "n q w"]
Logits = Float[torch.Tensor, "n q"]
Boxes = Float[torch.Tensor, "n q 4"]
ProposedLogits = Float[torch.Tensor, "n v"]
ProposedBoxes = Float[torch.Tensor, "n v 4"]
Objects = Float[torch.Tensor, "k w"]
Labels = Int[torch.Tensor, "k t"]
LabelList = Int[torch.Tensor, "labels t"]
Embedding = Float[torch.Tensor, "words h"]
LabelLogits = Float[torch.Tensor, "k t words"]
Likelihoods = Float[torch.Tensor, "k labels"]
Points = Float[torch.Tensor, "*some 2"]
Vectors = Float[torch.Tensor, "*some 8"]


@jaxtyped(typechecker=beartype)
def check_memory(
    hidden: Hidden,
    vision: Vision,
    vision_rows: VisionRows,
    prompt_columns: PromptRows,
    fetched_vision: VisionStates,
    fetched_image: VisionStates,
    fetched_prompt: PromptStates,
    image_mask: VisionMask,
    prompt_mask: PromptMask,
    centres_xy: Centres,
) -> None:
    """All in one call."""


@jaxtyped(typechecker=beartype)
def check_outputs(
    vision: VisionStates,
    states: States,
    logits: Logits,
    boxes: Boxes,
    proposed: ProposedLogits,
    proposed_boxes: ProposedBoxes,
) -> None:
    """All in one call."""


@jaxtyped(typechecker=beartype)
def caption_logits(head: DetectionHead, objects: Objects, tokens: Labels, embedding: Embedding) -> LabelLogits:
    return head.caption_logits(objects, tokens, embedding)


@jaxtyped(typechecker=beartype)
def likelihoods(captioner: Captioner, objects: Objects, tokens: LabelList, embedding: Embedding) -> Likelihoods:
    return captioner.log_likelihoods(objects, tokens, embedding)


@jaxtyped(typechecker=beartype)
def positions(points: Points) -> Vectors:
    return sine_positions(points, 8)


def test_memory():
    rows, columns = torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, 4, dtype=torch.long)
    masks = torch.ones(2, 6, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    hidden, vision = torch.randn(2, 15, HIDDEN), torch.randn(12, HIDDEN)
    memory: Memory = gather_memory(
        hidden,
        vision,
        {
            "vision_rows": rows,
            "image_columns": rows,
            "image_mask": masks[0],
            "centres_xy": token_centres(2, 3).expand(2, -1, -1),
            "prompt_columns": columns,
            "prompt_mask": masks[1],
        },
    )
    check_memory(hidden, vision, rows, columns, *memory)


def test_head():
    memory = random_memory([(2, 3), (4, 2), (1, 1)], [5, 2, 7])
    head = small_head(queries="tokens")
    outputs: HeadOutputs = head(memory)
    proposals = outputs.proposals
    for layer in outputs.layers:
        told = (layer.objectness_logits, layer.boxes, proposals.objectness_logits, proposals.boxes)
        check_outputs(memory.vision, outputs.states, *told)
    assert outputs.states.shape[1:] == (head.config.num_queries, head.config.width)
    assert len(outputs.layers) == head.config.decoder_layers


def test_captions():
    head, objects = small_head(), torch.randn(6, small_config().width)
    caption_logits(head, objects, torch.full((6, 3), END), random_embedding())
    likelihoods(head.captioner, objects, torch.full((2, 3), END), random_embedding())


def test_positions():
    positions(torch.rand(3, 5, 2))
    positions(token_centres(2, 2))
