"""Boxes that a model was not sure enough of to write down, by making it go on where it would end its answer.

Greedy decoding ends an answer as soon as ending is likelier than one more box, so a box of probability 0.4 is never
seen. Average precision ranks boxes by score and is computed from such boxes too; detectors that give a hundred boxes
an image have always shown them. Suppressing the end is what Pix2Seq does (Chen et al. 2022, arXiv 2109.10852, §3.2),
there for every answer; here it is done only where the model itself finds another box possible, and the answer proper
is kept apart.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import LogitsProcessor

from boxtune.grounding.codec import TextForm

NUM_CANDIDATES: Final = 5
"""Boxes after the end of an answer, where nothing else is asked for."""

POSSIBLE: Final = 0.01
"""Probability of another box below which the model is allowed to end: such a box would rank last in any case."""


@dataclass(frozen=True)
class Ending:
    """Where an answer would have ended.

    Attributes:
        answer: the whole text of it.
        num_tokens: that were written before the ending.
        log_prob: natural logarithm of the probability of the ending's first token.
    """

    answer: str
    num_tokens: int
    log_prob: float


class GoingOn(LogitsProcessor):
    """Greedy choice that replaces the end of an answer by the start of one more box, so many times a row.

    Args:
        tokenizer: of the model.
        form: knows what ends an answer and what opens a box.
        stops: token ids that end a turn.
        num_candidates: boxes after the end of each answer; 0 only takes notes.
        prompt_length: tokens before the answers.

    Attributes:
        log_probs: a step's `[B]` natural logarithms of the chosen tokens' probabilities, before anything was replaced.
        endings: row → where it was made to go on, for rows where it was.
    """

    def __init__(
        self, tokenizer: Any, form: TextForm, stops: Collection[int], num_candidates: int, prompt_length: int
    ) -> None:
        self.tokenizer, self.form = tokenizer, form
        self.num_candidates, self.prompt_length = num_candidates, prompt_length
        self.stops = frozenset(stops)
        self.log_probs: list[torch.Tensor] = []
        self.endings: dict[int, Ending] = {}
        self.given: dict[int, int] = {}
        self.ended: set[int] = set()
        self.pieces: dict[int, str] = {}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores `[B, V]` with the replaced choices set to the maximum."""
        log_probs = scores.float().log_softmax(-1)
        best, chosen = log_probs.max(-1)
        if self.num_candidates:
            for row, token in enumerate(chosen.tolist()):
                if row in self.ended:
                    continue
                instead = self._instead(row, token, input_ids, log_probs[row])
                if instead is not None:
                    best[row] = log_probs[row, instead]
                    scores[row] = -torch.inf
                    scores[row, instead] = 0.0
                elif token in self.stops:
                    self.ended.add(row)
        self.log_probs.append(best)
        return scores

    def _instead(self, row: int, token: int, input_ids: torch.Tensor, log_probs: torch.Tensor) -> int | None:
        """The token that opens one more box, where `token` would end the answer and another box is possible."""
        if self.given.get(row, 0) >= self.num_candidates or not self.form.may_end(piece := self._piece(token)):
            return None
        written = input_ids[row, self.prompt_length :].tolist()
        reopened = self.form.reopened(self.tokenizer.decode(written, skip_special_tokens=False), piece)
        if reopened is None:
            return None
        answer, opening = reopened
        # the first token of the opening, as the tokenizer writes it: `"}]` becomes `"},` where there is such a token;
        # where it begins as the end does, nothing is decided yet
        instead = int(self.tokenizer.encode(opening, add_special_tokens=False)[0])
        if instead == token or log_probs[instead].exp() < POSSIBLE:
            return None
        self.endings.setdefault(row, Ending(answer, len(written), float(log_probs[token])))
        self.given[row] = self.given.get(row, 0) + 1
        return instead

    def _piece(self, token: int) -> str:
        """What a token writes; "" for one that ends the turn."""
        if token not in self.pieces:
            text = self.tokenizer.decode([token], skip_special_tokens=False)
            self.pieces[token] = "" if token in self.stops else text
        return self.pieces[token]
