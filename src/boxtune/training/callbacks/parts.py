"""In how many parts a batch is computed: one, and more once it did not fit into memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from boxtune.collators.batch import Batch
from boxtune.collators.parts import halves, num_samples, num_tokens
from boxtune.errors import RunError, some
from boxtune.training.kept import kept_attributes


class PartsCallback(TrainerCallback, ExportableState):
    """Halves batches for good where one was too large, if it is asked to, and says which one it was if it is not.

    The loss of a step is a sum divided by a count of the whole step, so parts have the gradient of the whole: as with
    half the batch (or half the token budget) and twice the accumulation, but the order of the images stays what it was.

    Args:
        retry: whether to halve.
        say: is told of it.
        advice: `(samples, tokens, most tokens that fitted so far)` → settings that would fit, in words.

    Attributes:
        halvings: how often all batches are halved; part of the checkpoint.
    """

    def __init__(
        self,
        *,
        retry: bool = False,
        say: Callable[[str], None] = lambda _: None,
        advice: Callable[[int, int, int], str] = lambda *_: "",
    ) -> None:
        self.retry, self.say, self.advice = retry, say, advice
        self.halvings = 0
        self._most_tokens = 0
        self._in_hand: Batch | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"halvings": self.halvings}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up what the sittings before have found out."""
        kept = kept_attributes(self, state)
        if kept and self.retry:
            self.halvings = int(kept["halvings"])

    def of(self, batch: Batch) -> Iterator[Batch]:
        """The parts of a batch, one after the other; whoever takes the next has computed the one before."""
        for part in _parts(batch, self.halvings):
            self._in_hand = part
            yield part
            self._most_tokens = max(self._most_tokens, num_tokens(part))
        self._in_hand = None

    def halve(self, step: int, error: Exception) -> None:
        """After a part that did not fit: smaller parts from now on.

        Args:
            step: in hand.
            error: that says so.

        Raises:
            RunError: the part cannot be halved, or shall not be.
        """
        part, self._in_hand = self._in_hand, None
        assert part is not None
        samples, tokens = num_samples(part), num_tokens(part)
        where = f"Out of memory at step {step}, in {samples} images of {tokens} tokens together"
        ids = some([str(sample_id) for sample_id in part["targets"]["sample_ids"]])
        if not self.retry or samples == 1:
            where = f"Out of memory at step {step}, in image {ids} of {tokens} tokens" if samples == 1 else where
            named = "" if samples == 1 else f": {ids}"
            fitted = f" (up to {self._most_tokens} fitted so far)" if self._most_tokens else ""
            raise RunError(f"{where}{fitted}{named}. {self.advice(samples, tokens, self._most_tokens)}") from error
        self.halvings += 1
        self.say(
            f"{where}: {ids}. Batches are computed in {2**self.halvings} parts from now on; the step is done again."
        )


def _parts(batch: Batch, halvings: int) -> Iterator[Batch]:
    if halvings == 0 or num_samples(batch) == 1:
        yield batch
        return
    for half in halves(batch):
        yield from _parts(half, halvings - 1)


def release_memory() -> None:
    """Of what was computed before it ran out; called where no exception holds it any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
