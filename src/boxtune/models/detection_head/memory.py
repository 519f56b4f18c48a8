"""What the head may look at: of each sample its image and its question, never an answer, never another sample.

Which rows those are is known from the tokens alone, so the index is made where batches are made; fetching them is
plain indexing. An answer gives the boxes away, so no state of one is ever fetched. The states that are fetched do not
know what comes after them, as a language model's attention looks back only: at inference they are the same.

Where a conversation shows worked examples first, the last image is the one in question: its tokens, and the text of
the turn that asks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import torch
from torch.nn.utils.rnn import pad_sequence

from boxtune.errors import DataError


class MemoryIndex(TypedDict):
    """Where the head's memory lies in a batch of N samples: V image tokens at most, T tokens of text. All padded by 0.

    Attributes:
        vision_rows: `[N, V]` rows among the vision embeddings of all images.
        image_columns: `[N, V]` the same tokens' places in the hidden states, rows of the batch laid end to end.
        image_mask: `[N, V]` True at real tokens.
        centres_xy: `[N, V, 2]` centres of the tokens, as shares of the image's sides.
        prompt_columns: `[N, T]` places of the question's text.
        prompt_mask: `[N, T]` True at real tokens.
    """

    vision_rows: torch.Tensor
    image_columns: torch.Tensor
    image_mask: torch.Tensor
    centres_xy: torch.Tensor
    prompt_columns: torch.Tensor
    prompt_mask: torch.Tensor


class Memory(NamedTuple):
    """The fetched states: `vision`, `image` `[N, V, H]`, `prompt` `[N, T, H]`, zero where masks are False."""

    vision: torch.Tensor
    image: torch.Tensor
    prompt: torch.Tensor
    image_mask: torch.Tensor
    prompt_mask: torch.Tensor
    centres_xy: torch.Tensor


class Place(NamedTuple):
    """Where a sample lies in a batch: columns `[start, end)` of a row."""

    row: int
    start: int
    end: int


def question_span(answer_spans: Sequence[tuple[int, int]], length: int, *, is_answered: bool = True) -> tuple[int, int]:
    """Tokens `[start, end)` of the last question: after the answer before it, up to its own answer or the end.

    Args:
        answer_spans: of all answers of the conversation, in order; none where the model is only asked.
        length: of the conversation in tokens.
        is_answered: whether the last of the answers is that of the last question, where there are some.
    """
    starts = [0, *(end for _, end in answer_spans)]
    ends = [*(start for start, _ in answer_spans), length]
    last = len(answer_spans) - bool(is_answered and answer_spans)
    return starts[last], ends[last]


def sample_places(inputs: Mapping[str, torch.Tensor]) -> list[Place]:
    """Where each sample of a batch lies: told by the attention mask, or, of a packed row, by its positions.

    Args:
        inputs: of the model: `attention_mask` `[B, L]`, or `position_ids` `[4, 1, L]` whose first row counts anew with
            each sample.
    """
    if "attention_mask" in inputs:
        real = inputs["attention_mask"].bool().tolist()
        return [Place(row, flags.index(True), flags.index(True) + sum(flags)) for row, flags in enumerate(real)]
    text_row = inputs["position_ids"][0, 0]
    borders = [*(text_row == 0).nonzero()[:, 0].tolist(), len(text_row)]
    return [Place(0, start, end) for start, end in itertools.pairwise(borders)]


def memory_index(
    inputs: Mapping[str, torch.Tensor],
    question_spans: Sequence[tuple[int, int]],
    *,
    image_token_id: int,
    merge_size: int,
) -> MemoryIndex:
    """Find the last image and question of each sample in a padded (either side) or packed batch.

    Args:
        inputs: of the model: `input_ids` `[B, L]`, `image_grid_thw` `[images, 3]` in patches, and what
            `sample_places` reads.
        question_spans: a sample, as `question_span` gives it, counted from the sample's own first token.
        image_token_id: of the placeholder tokens.
        merge_size: patches merged to a token, a side.

    Raises:
        DataError: a sample without an image before the end of its question.
    """
    is_image = inputs["input_ids"] == image_token_id
    grids = (inputs["image_grid_thw"][:, 1:] // merge_size).tolist()
    first_rows = [0, *itertools.accumulate(rows * columns for rows, columns in grids)]
    vision, image, centres, prompt = [], [], [], []
    images_seen = 0
    for number, (place, (start, end)) in enumerate(zip(sample_places(inputs), question_spans, strict=True)):
        own = is_image[place.row, place.start : place.end]
        tokens = own.nonzero()[:, 0]
        if not len(tokens) or int(tokens[-1]) >= end:
            raise DataError(f"Sample {number} of the batch shows no image before its answer: the head looks at one.")
        images_seen = first_rows.index(first_rows[images_seen] + len(tokens))  # this sample's tokens are full images
        last = slice(first_rows[images_seen - 1], first_rows[images_seen])
        offset = place.row * is_image.shape[1] + place.start
        vision.append(torch.arange(last.start, last.stop))
        image.append(tokens[last.start - last.stop :] + offset)
        centres.append(token_centres(*grids[images_seen - 1]))
        prompt.append((~own[start:end]).nonzero()[:, 0] + start + offset)
    return MemoryIndex(
        vision_rows=pad_sequence(vision, batch_first=True),
        image_columns=pad_sequence(image, batch_first=True),
        image_mask=_mask(image),
        centres_xy=pad_sequence(centres, batch_first=True),
        prompt_columns=pad_sequence(prompt, batch_first=True),
        prompt_mask=_mask(prompt),
    )


def token_centres(rows: int, columns: int) -> torch.Tensor:
    """`[rows × columns, 2]` centres (x, y) of an image's tokens, row by row, as shares of its sides."""
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def gather_memory(hidden: torch.Tensor, vision: torch.Tensor, index: MemoryIndex) -> Memory:
    """Fetch what the head may look at.

    Args:
        hidden: `[B, L, H]` last hidden states of the batch.
        vision: `[tokens of all images, H]` the vision tower's output, merged.
        index: of the same batch, on the same device.
    """
    flat = hidden.flatten(0, 1)
    return Memory(
        vision=_fetch(vision, index["vision_rows"], index["image_mask"]),
        image=_fetch(flat, index["image_columns"], index["image_mask"]),
        prompt=_fetch(flat, index["prompt_columns"], index["prompt_mask"]),
        image_mask=index["image_mask"],
        prompt_mask=index["prompt_mask"],
        centres_xy=index["centres_xy"],
    )


def _fetch(states: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Padding points at row 0, which is somebody's: it becomes zero."""
    return states[rows].masked_fill(~mask[..., None], 0)


def _mask(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return pad_sequence([torch.ones(len(part), dtype=torch.bool) for part in parts], batch_first=True)
