"""Greedy answers to a stream of questions, as many at a time as there are slots, in the order of the questions.

Each answer stops for itself, and the next question takes its slot: an image with thirty boxes keeps no other waiting.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from boxtune.collators.encode import EncodedSample
from boxtune.grounding.codec import TextForm
from boxtune.inference.candidates import Ending, GoingOn
from boxtune.inference.decoding import Answer, answer_of
from boxtune.inference.steps import Steps

_TOKENS_AT_ONCE: Final = 32_768
"""Of questions that are read in one pass: more is not faster, and needs memory."""
_FEW: Final = 4
"""The share of the slots that is free before more questions are read: a pass for one image alone is a waste."""


@dataclass
class Draft:
    """An answer under way.

    Attributes:
        index: of the question.
        sample: the question.
        tokens, log_probs: written so far, and the natural logarithm of each one's probability.
        num_given: candidates that it was made to go on with.
        ending: where it would have ended.
    """

    index: int
    sample: EncodedSample
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    num_given: int = 0
    ending: Ending | None = None


class Writer:
    """Answers questions; `done` gives them in order.

    Args:
        steps: of the model, in evaluation mode; no other writer uses them at the time.
        stops: token ids that end a turn.
        tokenizer: of the model.
        form: how boxes are written.
        questions: read when a slot is free for them.
        max_new_tokens: longest answer, candidates included.
        num_candidates: boxes to name after the end of each answer, see `candidates`.
    """

    def __init__(
        self,
        steps: Steps,
        stops: Collection[int],
        tokenizer: Any,
        form: TextForm,
        questions: Iterator[EncodedSample],
        *,
        max_new_tokens: int,
        num_candidates: int = 0,
    ) -> None:
        self.tokenizer, self.questions = tokenizer, enumerate(questions)
        self.max_new_tokens, self.num_candidates = max_new_tokens, num_candidates
        self.stops, self.steps = frozenset(stops), steps
        self.going_on = GoingOn(tokenizer, form, stops)
        with torch.inference_mode():
            steps.clear()
        self.drafts: dict[int, Draft] = {}  # slot → what is written there
        self.done: dict[int, tuple[EncodedSample, Answer]] = {}
        self.num_given_out = 0
        self.failure: Exception | None = None

    @torch.inference_mode()
    def advance(self) -> list[tuple[EncodedSample, Answer]]:
        """Write until the next answer in order is done; it and those behind it that are. Empty at the end."""
        while self.num_given_out not in self.done:
            free = self.steps.memory.num_slots - len(self.drafts)
            if free * _FEW >= self.steps.memory.num_slots:
                self._begin(free)
            if not self.drafts:
                if self.failure is not None:
                    raise self.failure
                return []
            chosen = self.steps.step().T.tolist()
            for slot in list(self.drafts):
                self._take(slot, *chosen[slot])
        ready = []
        while self.num_given_out in self.done:
            ready.append(self.done.pop(self.num_given_out))
            self.num_given_out += 1
        return ready

    def _begin(self, num_free: int) -> None:
        """Read questions into free slots, so many tokens at a time."""
        waiting = self._read(num_free)
        while waiting:
            lengths = np.cumsum([len(sample) for _, sample in waiting])
            count = max(1, int((lengths <= _TOKENS_AT_ONCE).sum()))
            now, waiting = waiting[:count], waiting[count:]
            slots = [slot for slot in range(self.steps.memory.num_slots) if slot not in self.drafts][:count]
            self.drafts |= {slot: Draft(*question) for slot, question in zip(slots, now, strict=True)}
            chosen = self.steps.begin([sample for _, sample in now], slots, self.max_new_tokens)
            for slot, pair in zip(slots, chosen.T.tolist(), strict=True):
                self._take(slot, *pair)

    def _read(self, number: int) -> list[tuple[int, EncodedSample]]:
        """The next questions; an error among them is raised when those before it are answered."""
        found: list[tuple[int, EncodedSample]] = []
        while len(found) < number and self.failure is None:
            try:
                found.append(next(self.questions))
            except StopIteration:
                break
            except Exception as error:
                self.failure = error
        return found

    def _take(self, slot: int, chosen: float, log_prob: float) -> None:
        """Write a token down, or what is to stand there instead; end the answer where it ends."""
        draft, token = self.drafts[slot], int(chosen)
        if draft.num_given < self.num_candidates:
            probability = lambda other: math.exp(self._log_prob(slot, other))  # noqa: E731
            found = self.going_on.instead(draft.tokens, token, probability)
            if found is not None:
                instead, text = found
                draft.ending = draft.ending or Ending(text, len(draft.tokens), log_prob)
                draft.num_given += 1
                token, log_prob = instead, self._log_prob(slot, instead)
                self.steps.replace(slot, token)
        draft.tokens.append(token)
        draft.log_probs.append(log_prob)
        if token in self.stops or len(draft.tokens) == self.max_new_tokens:
            self.steps.end(slot)
            del self.drafts[slot]
            log_probs = np.array(draft.log_probs, dtype=np.float32)
            answer = answer_of(draft.tokens, log_probs, self.tokenizer, self.stops, draft.ending)
            self.done[draft.index] = draft.sample, answer

    def _log_prob(self, slot: int, token: int) -> float:
        return float(self.steps.log_probs[slot, token])


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Token ids that end a turn, of the model's folder and of the tokenizer."""
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    return {stop for stop in (*stops, tokenizer.eos_token_id) if stop is not None}
