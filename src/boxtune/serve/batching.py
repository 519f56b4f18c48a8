"""Questions that wait are asked together: one worker thread, a bounded queue, nothing lost and nothing mixed up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from PIL import Image

from boxtune.errors import BoxtuneError
from boxtune.inference.detector import Decoder, Prediction

_LOG = logging.getLogger("boxtune.serve")

WAITING_PIXELS: Final = 300_000_000
"""Of all pictures that wait, about 1 GB of memory; a single one always fits."""


class FullError(BoxtuneError):
    """No more can be taken in at the moment."""


class StoppedError(BoxtuneError):
    """The service ends and takes nothing in."""


@dataclass(frozen=True)
class Question:
    """A picture, upright and RGB, and what to look for in it; questions of one `kind` can be asked together."""

    image: Image.Image
    labels: tuple[str, ...]
    decoder: Decoder

    @property
    def kind(self) -> tuple[tuple[str, ...], Decoder]:
        """What must be the same for all pictures of a batch."""
        return self.labels, self.decoder

    @property
    def num_pixels(self) -> int:
        """Of the picture."""
        return self.image.width * self.image.height


@dataclass(frozen=True)
class Answered:
    """What the model said.

    Attributes:
        prediction: about the picture of the question.
        num_together: pictures that were asked about in the same batch, this one included.
        seconds_waited: in the queue, before the model began.
    """

    prediction: Prediction
    num_together: int
    seconds_waited: float


Ask = Callable[[Sequence[Question]], Sequence[Prediction]]
"""One batch of questions of a kind → a prediction each, in order."""


@dataclass(eq=False)
class _Waiting:
    question: Question
    future: Future[Answered] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Collects questions from any thread and asks them in batches from its own.

    The oldest question decides what is asked next: it waits until its batch is full or `max_wait_s` have passed, and
    all others of its kind go along, oldest first. So nothing waits for ever, whatever else comes in.

    Args:
        ask: called from the worker thread alone.
        batch_size: most questions of a batch.
        max_wait_s: how long a question waits for others.
        max_inside: most callers between coming in and going out; see `place`.
        on_batch: told the number of questions of each batch that was answered, and the seconds that it took.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        batch_size: int,
        max_wait_s: float,
        max_inside: int,
        on_batch: Callable[[int, float], None] = lambda num_questions, seconds: None,
    ) -> None:
        self._ask, self._on_batch = ask, on_batch
        self.batch_size, self.max_wait_s, self.max_inside = batch_size, max_wait_s, max_inside
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._num_inside = 0
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="boxtune-batches", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._worker.start()

    def close(self) -> None:
        """Let nobody in from now on; safe in a signal handler, since it takes no lock."""
        self._closed = True

    def stop(self) -> None:
        """Close, answer what waits, and end the worker."""
        self._closed = True
        with self._changed:
            self._changed.notify_all()
        if self._worker.ident is not None:
            self._worker.join()

    @property
    def is_closed(self) -> bool:
        """Whether nobody is let in."""
        return self._closed

    @property
    def is_alive(self) -> bool:
        """Whether questions are answered."""
        return self._worker.is_alive()

    @property
    def num_waiting(self) -> int:
        """Questions that wait for the model."""
        return sum(not one.future.cancelled() for one in tuple(self._waiting))

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place inside, taken before an upload is read and held until its answer has gone.

        Raises:
            FullError: `max_inside` are inside already.
            StoppedError: the batcher is closed.
        """
        with self._changed:
            self._refuse_if_closed()
            if self._num_inside >= self.max_inside:
                raise FullError(f"{self.max_inside} requests are waiting or at work: try again in a moment.")
            self._num_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_inside -= 1

    def submit(self, question: Question) -> Future[Answered]:
        """Put a question in line; cancel the future to take it out again, as long as it waits.

        Raises:
            FullError: the pictures that wait are too large together.
        """
        waiting = _Waiting(question)
        with self._changed:
            self._drop_cancelled()
            pixels = sum(one.question.num_pixels for one in self._waiting)
            if self._waiting and pixels + question.num_pixels > WAITING_PIXELS:
                raise FullError("The pictures that wait fill the memory meant for them: try again in a moment.")
            self._waiting.append(waiting)
            self._changed.notify_all()
        return waiting.future

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoppedError("The service is stopping and takes no more requests.")

    def _drop_cancelled(self) -> None:
        self._waiting = [one for one in self._waiting if not one.future.cancelled()]

    def _work(self) -> None:
        while batch := self._next_batch():
            self._answer(batch, time.monotonic())

    def _next_batch(self) -> list[_Waiting]:
        """The oldest question and others of its kind; empty at the end."""
        with self._changed:
            while True:
                self._drop_cancelled()
                if not self._waiting:
                    if self._closed and not self._num_inside:
                        return []
                    self._changed.wait(timeout=0.1 if self._closed else None)
                    continue
                oldest = self._waiting[0]
                together = [one for one in self._waiting if one.question.kind == oldest.question.kind]
                left = oldest.since + self.max_wait_s - time.monotonic()
                if len(together) < self.batch_size and left > 0 and not self._closed:
                    self._changed.wait(timeout=left)
                    continue
                # from here on a future can no longer be cancelled; one that was meanwhile goes at the next turn
                batch = [one for one in together[: self.batch_size] if one.future.set_running_or_notify_cancel()]
                self._waiting = [one for one in self._waiting if one not in batch]
                if batch:
                    return batch

    def _answer(self, batch: Sequence[_Waiting], began: float) -> None:
        """Give each future its result or its error."""
        try:
            predictions = self._ask([one.question for one in batch])
        except Exception as error:
            if len(batch) == 1:
                if not isinstance(error, BoxtuneError):
                    _LOG.exception("A question could not be answered.")
                batch[0].future.set_exception(error)
                return
            _LOG.warning("A batch of %d failed (%s: %s); each alone.", len(batch), type(error).__name__, error)
            for one in batch:  # a picture that fails, or a batch that is too large for the memory, is nobody else's
                self._answer([one], time.monotonic())
            return
        assert len(predictions) == len(batch), "an answer for each question"
        self._on_batch(len(batch), time.monotonic() - began)
        for one, prediction in zip(batch, predictions, strict=True):
            one.future.set_result(Answered(prediction, len(batch), began - one.since))
