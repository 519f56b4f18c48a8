"""Greedy generation for a batch, with the probability of every token that was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList

from boxtune.grounding.codec import BoxSpan, TextForm
from boxtune.inference.candidates import Ending, GoingOn

_SEPARATOR = 2  # characters between two boxes, at most: ", " in a list


@dataclass(frozen=True)
class Answer:
    """What a model wrote about one image.

    Attributes:
        text: without stop and padding tokens.
        char_spans: for each token its range `[start, end)` in `text`.
        log_probs: `[T]` natural logarithm of each token's probability.
        truncated: whether the token limit ended it.
        continued: the answer that goes on with candidates where this one ends; None where there are none.
        num_common_chars: that both begin with.
    """

    text: str
    char_spans: tuple[tuple[int, int], ...]
    log_probs: np.ndarray
    truncated: bool
    continued: Answer | None = None
    num_common_chars: int = 0

    def box_score(self, span: BoxSpan) -> float:
        """How sure the model was of one box, 0–1: the probability that it opens one here rather than ending the answer,
        times the geometric mean of the probabilities of the tokens that then say what and where it is.
        """
        start, end = span.whole
        opening, inside = [], []
        for (token_start, token_end), log_prob in zip(self.char_spans, self.log_probs, strict=True):
            if token_start <= start and token_end > start - _SEPARATOR:
                opening.append(log_prob)
            elif start < token_start < end:
                inside.append(log_prob)
        return float(np.exp(sum(opening) + np.mean(inside or [0.0]))) if opening else 0.0


@torch.inference_mode()
def generate(
    model: Any,
    inputs: dict[str, torch.Tensor],
    tokenizer: Any,
    max_new_tokens: int,
    form: TextForm,
    num_candidates: int = 0,
) -> list[Answer]:
    """Answers to a left-padded batch of questions, greedy.

    Args:
        model: in evaluation mode, on the device of `inputs`.
        inputs: as `boxtune.collators.batch.pad` makes them, side left.
        tokenizer: of the model.
        max_new_tokens: longest answer, candidates included.
        form: how boxes are written.
        num_candidates: boxes to name after the end of each answer, see `candidates`.
    """
    stops = _stop_ids(model, tokenizer)
    prompt_length = inputs["input_ids"].shape[1]
    choice = GoingOn(tokenizer, form, stops, num_candidates, prompt_length)
    tokens = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # Qwen2.5-VL's folder asks for 1.05, which bends repeated digits of coordinates
        no_repeat_ngram_size=0,
        logits_processor=LogitsProcessorList([choice]),
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    new_tokens = tokens[:, prompt_length:].cpu()
    log_probs = torch.stack(choice.log_probs, dim=1).cpu().numpy()
    return [
        _answer(tokens.tolist(), log_probs[row], tokenizer, stops, choice.endings.get(row))
        for row, tokens in enumerate(new_tokens)
    ]


def _stop_ids(model: Any, tokenizer: Any) -> set[int]:
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    return {stop for stop in (*stops, tokenizer.eos_token_id) if stop is not None}


def _answer(tokens: list[int], log_probs: np.ndarray, tokenizer: Any, stops: set[int], ended: Ending | None) -> Answer:
    length = next((i for i, token in enumerate(tokens) if token in stops), len(tokens))
    text, spans = text_with_spans(tokens[:length], tokenizer)
    whole = Answer(text, spans, log_probs[:length], truncated=length == len(tokens))
    if ended is None:
        return whole
    common = spans[ended.num_tokens][0] if ended.num_tokens < length else len(text)
    own_spans, own_log_probs = spans[: ended.num_tokens], log_probs[: ended.num_tokens]
    if len(ended.answer) > common:  # the ending is a token of the answer, not of the turn
        own_spans, own_log_probs = (*own_spans, (common, len(ended.answer))), np.append(own_log_probs, ended.log_prob)
    return Answer(ended.answer, own_spans, own_log_probs, False, whole, common)


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
