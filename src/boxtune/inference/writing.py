"""Greedy answers to a stream of questions, as many at a time as there are slots, in the order of the questions.

Each answer stops for itself, and the next question takes its slot: an image with thirty boxes keeps no other waiting.
A step of one token costs a GPU about the same for a hundred answers as for one, so there are more slots than questions
that are read in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from boxtune.collators.encode import EncodedSample
from boxtune.grounding.codec import TextForm
from boxtune.inference.candidates import Ending, GoingOn
from boxtune.inference.decoding import Answer, answer_of
from boxtune.inference.language_pass import Read
from boxtune.inference.steps import Chosen, Steps

_TOKENS_AT_ONCE: Final = 32_768
"""Of questions that are read in one pass: more is not faster, and needs memory."""
_FEW: Final = 4
"""The share of the slots that is free before more questions are read: a pass for one image alone is a waste."""

Look = Callable[[Sequence[EncodedSample], Read], list[Any]]
"""Questions, and what was read → something for each, say what a detection head finds."""


@dataclass
class Draft:
    """An answer under way.

    Attributes:
        index: of the question.
        sample: the question, without its pixels.
        tokens, log_probs: written so far, and the natural logarithm of each one's probability.
        num_given: candidates that it was made to go on with.
        ending: where it would have ended.
        looked: what else was made of the question.
    """

    index: int
    sample: EncodedSample
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    num_given: int = 0
    ending: Ending | None = None
    looked: Any = None


class Written(NamedTuple):
    """A question without its pixels, its answer, and what else was made of it."""

    sample: EncodedSample
    answer: Answer
    looked: Any


class Writer:
    """Answers questions; `done` gives them in order.

    Args:
        steps: of the model, in evaluation mode; no other writer uses them at the time.
        stops: token ids that end a turn.
        tokenizer: of the model.
        form: how boxes are written.
        questions: read when a slot is free for them.
        at_once: questions that are read in one pass, at most; None: as many as there are slots.
        max_new_tokens: longest answer, candidates included.
        num_candidates: boxes to name after the end of each answer, see `candidates`.
        look: what else is made of the questions while they are read.
    """

    def __init__(
        self,
        steps: Steps,
        stops: Collection[int],
        tokenizer: Any,
        form: TextForm,
        questions: Iterator[EncodedSample],
        *,
        at_once: int | None = None,
        max_new_tokens: int,
        num_candidates: int = 0,
        look: Look | None = None,
    ) -> None:
        self.tokenizer, self.questions = tokenizer, enumerate(questions)
        self.max_new_tokens, self.num_candidates = max_new_tokens, num_candidates
        self.stops, self.steps, self.look = frozenset(stops), steps, look
        self.at_once = at_once or steps.memory.num_slots
        # what is written down must not be changed then; and a device that does its work at once gains nothing
        self.goes_ahead = num_candidates == 0 and steps.device.type == "cuda"
        self.going_on = GoingOn(tokenizer, form, stops)
        with torch.inference_mode():
            steps.clear()
        self.drafts: dict[int, Draft] = {}  # slot → what is written there
        self.first: list[tuple[list[int], Chosen]] = []  # slots, and their first tokens as they come
        self.under_way: tuple[dict[int, Draft], Chosen] | None = None  # a step ahead, and whom it was made for
        self.done: dict[int, Draft] = {}
        self.num_given_out = 0
        self.failure: Exception | None = None

    @torch.inference_mode()
    def advance(self) -> list[Written]:
        """Write until the next answer in order is done; it and those behind it that are. Empty at the end.

        The next questions are given to the device before the answers are made out, so that both go on at once.
        """
        self._take_first()
        while self.num_given_out not in self.done:
            self._begin()
            self._take_first()
            if self.drafts:
                self._write()
            elif self.num_given_out not in self.done:
                if self.failure is not None:
                    raise self.failure
                return []
        self._begin()
        ready = []
        while self.num_given_out in self.done:
            ready.append(self._made_out(self.done.pop(self.num_given_out)))
            self.num_given_out += 1
        return ready

    def _begin(self) -> None:
        """Read questions into free slots while enough are free, so many at a time."""
        num_slots = self.steps.memory.num_slots
        free = [slot for slot in range(num_slots) if slot not in self.drafts]
        while len(free) * _FEW >= num_slots and (waiting := self._read(min(len(free), self.at_once))):
            while waiting:
                lengths = np.cumsum([len(sample) for _, sample in waiting])
                count = max(1, int((lengths <= _TOKENS_AT_ONCE).sum()))
                self._begin_with(waiting[:count], free[:count])
                waiting, free = waiting[count:], free[count:]

    def _begin_with(self, questions: Sequence[tuple[int, EncodedSample]], slots: list[int]) -> None:
        samples = [sample for _, sample in questions]
        chosen, read = self.steps.begin(samples, slots, self.max_new_tokens)
        looked = [None] * len(samples) if self.look is None else self.look(samples, read)
        for slot, (index, sample), found in zip(slots, questions, looked, strict=True):
            without_pixels = replace(sample, pixel_values=sample.pixel_values[:0].clone())
            self.drafts[slot] = Draft(index, without_pixels, looked=found)
        self.first.append((slots, chosen))

    def _take_first(self) -> None:
        for slots, chosen in self.first:
            for slot, pair in zip(slots, chosen.pairs(), strict=True):
                self._take(slot, *pair)
        self.first = []

    def _write(self) -> None:
        """A token more for each answer; where it can, the device is given the next step before this one is looked at.

        What a step ahead writes behind the end of an answer is not looked at, and the next question overwrites it.
        """
        drafts, chosen = self.under_way or (dict(self.drafts), self.steps.step())
        more = self.goes_ahead and any(len(draft.tokens) + 1 < self.max_new_tokens for draft in self.drafts.values())
        self.under_way = (dict(self.drafts), self.steps.step()) if more else None
        pairs = chosen.pairs()
        for slot, draft in drafts.items():
            if self.drafts.get(slot) is draft:
                self._take(slot, *pairs[slot])

    def _made_out(self, draft: Draft) -> Written:
        log_probs = np.array(draft.log_probs, dtype=np.float32)
        answer = answer_of(draft.tokens, log_probs, self.tokenizer, self.stops, draft.ending)
        return Written(draft.sample, answer, draft.looked)

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

    def _take(self, slot: int, token: int, log_prob: float) -> None:
        """Write a token down, or what is to stand there instead; end the answer where it ends."""
        draft = self.drafts[slot]
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
            if not np.isfinite(draft.log_probs).all():
                self.steps.memory.wipe(slot)
            self.done[draft.index] = self.drafts.pop(slot)

    def _log_prob(self, slot: int, token: int) -> float:
        return float(self.steps.log_probs[slot, token])


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Token ids that end a turn, of the model's folder and of the tokenizer."""
    return stops_of(model.generation_config, tokenizer)


def stops_of(generation_config: Any, tokenizer: Any) -> set[int]:
    """As `stop_ids`, without the model."""
    stops = generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    return {stop for stop in (*stops, tokenizer.eos_token_id) if stop is not None}
