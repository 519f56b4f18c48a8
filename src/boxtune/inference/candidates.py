"""Boxes that a model was not sure enough of to write down, by making it go on where it would end its answer.

Greedy decoding ends an answer as soon as ending is likelier than one more box, so a box of probability 0.4 is never
seen. Average precision ranks boxes by score and is computed from such boxes too; detectors that give a hundred boxes
an image have always shown them. Suppressing the end is what Pix2Seq does (Chen et al. 2022, arXiv 2109.10852, §3.2),
there for every answer; here it is done only where the model itself finds another box possible, and the answer proper
is kept apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

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


class GoingOn:
    """Finds the token that opens one more box where an answer would end.

    Args:
        tokenizer: of the model.
        form: knows what ends an answer and what opens a box.
        stops: token ids that end a turn.
    """

    def __init__(self, tokenizer: Any, form: TextForm, stops: Collection[int]) -> None:
        self.tokenizer, self.form = tokenizer, form
        self.stops = frozenset(stops)
        self.pieces: dict[int, str] = {}

    def instead(
        self, written: Sequence[int], token: int, probability: Callable[[int], float]
    ) -> tuple[int, str] | None:
        """A token in the place of `token`, and the answer that is ended by `token`.

        Args:
            written: tokens before it.
            token: the model's choice.
            probability: of another token in its place.

        Returns:
            None where `token` ends no answer, or another box is not possible.
        """
        if not self.form.may_end(piece := self._piece(token)):
            return None
        reopened = self.form.reopened(self.tokenizer.decode(list(written), skip_special_tokens=False), piece)
        if reopened is None:
            return None
        answer, opening = reopened
        # the first token of the opening, as the tokenizer writes it: `"}]` becomes `"},` where there is such a token;
        # where it begins as the end does, nothing is decided yet
        instead = int(self.tokenizer.encode(opening, add_special_tokens=False)[0])
        if instead == token or probability(instead) < POSSIBLE:
            return None
        return instead, answer

    def _piece(self, token: int) -> str:
        """What a token writes; "" for one that ends the turn."""
        if token not in self.pieces:
            text = self.tokenizer.decode([token], skip_special_tokens=False)
            self.pieces[token] = "" if token in self.stops else text
        return self.pieces[token]
