"""Greedy generation for a batch, with the probability of every token that was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from boxtune.grounding.codec import BoxSpan


@dataclass(frozen=True)
class Answer:
    """What a model wrote about one image.

    Attributes:
        text: without stop and padding tokens.
        char_spans: for each token its range `[start, end)` in `text`.
        log_probs: `[T]` natural logarithm of each token's probability.
        truncated: whether the token limit ended it.
    """

    text: str
    char_spans: tuple[tuple[int, int], ...]
    log_probs: np.ndarray
    truncated: bool

    def box_score(self, span: BoxSpan) -> float:
        """How sure the model was of one box, 0–1: the geometric mean of its tokens' probabilities, from the token
        that opens the box (rather than ending the answer) to the one that closes it.
        """
        start, end = span.whole
        inside = [
            log_prob
            for (token_start, token_end), log_prob in zip(self.char_spans, self.log_probs, strict=True)
            if token_start < end and token_end > start
        ]
        return float(np.exp(np.mean(inside))) if inside else 0.0


class _ChosenLogProbs(LogitsProcessor):
    """Notes log p of the greedy choice at each step; `[B]` numbers a step instead of the whole vocabulary's logits."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.steps.append(scores.float().log_softmax(-1).amax(-1))
        return scores


@torch.inference_mode()
def generate(model: Any, inputs: dict[str, torch.Tensor], tokenizer: Any, max_new_tokens: int) -> list[Answer]:
    """Answers to a left-padded batch of questions, greedy.

    Args:
        model: in evaluation mode, on the device of `inputs`.
        inputs: as `boxtune.collators.batch.pad` makes them, side left.
        tokenizer: of the model.
        max_new_tokens: longest answer.
    """
    chosen = _ChosenLogProbs()
    tokens = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # Qwen2.5-VL's folder asks for 1.05, which bends repeated digits of coordinates
        no_repeat_ngram_size=0,
        logits_processor=LogitsProcessorList([chosen]),
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    new_tokens = tokens[:, inputs["input_ids"].shape[1] :].cpu()
    log_probs = torch.stack(chosen.steps, dim=1).cpu().numpy()
    stops = _stop_ids(model, tokenizer)
    return [_answer(row.tolist(), probs, tokenizer, stops) for row, probs in zip(new_tokens, log_probs, strict=True)]


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    return {stop for stop in (*stops, tokenizer.eos_token_id) if stop is not None}


def _answer(tokens: list[int], log_probs: np.ndarray, tokenizer: Any, stops: set[int]) -> Answer:
    length = next((i for i, token in enumerate(tokens) if token in stops), len(tokens))
    text, spans = text_with_spans(tokens[:length], tokenizer)
    return Answer(text, spans, log_probs[:length], truncated=length == len(tokens))


def text_with_spans(tokens: list[int], tokenizer: Any) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of tokens, special ones included, and the character range of each.

    A character of several bytes may be spread over several tokens, and a token may end one character and begin the
    next; such tokens share the range of all these characters.
    """
    text, spans, pending = "", [], 0
    for position in range(len(tokens)):
        piece = tokenizer.decode(tokens[pending : position + 1], skip_special_tokens=False)
        if piece.endswith("�") and position + 1 < len(tokens):
            continue
        spans += [(len(text), len(text) + len(piece))] * (position + 1 - pending)
        text += piece
        pending = position + 1
    return text, tuple(spans)
