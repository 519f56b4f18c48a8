"""An answer as it was written: its text, and the probability of every token that was chosen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxtune.grounding.codec import BoxSpan
from boxtune.inference.candidates import Ending

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


def answer_of(
    tokens: Sequence[int], log_probs: np.ndarray, tokenizer: Any, stops: Collection[int], ended: Ending | None
) -> Answer:
    """The answer that was written.

    Args:
        tokens: with the one that ends the turn, where there is one.
        log_probs: natural logarithm of the probability of each.
        tokenizer: of the model.
        stops: token ids that end a turn.
        ended: where it was made to go on with candidates.
    """
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


def text_with_spans(tokens: Sequence[int], tokenizer: Any) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of tokens, special ones included, and the character range of each.

    A character of several bytes may be spread over several tokens, and a token may end one character and begin the
    next; such tokens share the range of all these characters.
    """
    text, spans, pending = "", [], 0
    for position in range(len(tokens)):
        piece = tokenizer.decode(list(tokens[pending : position + 1]), skip_special_tokens=False)
        if piece.endswith("�") and position + 1 < len(tokens):
            continue
        spans += [(len(text), len(text) + len(piece))] * (position + 1 - pending)
        text += piece
        pending = position + 1
    return text, tuple(spans)
