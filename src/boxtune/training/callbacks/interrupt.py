"""Ctrl-C and SIGTERM end a run after the step in hand, with a checkpoint; a second Ctrl-C ends it at once.

A launcher passes on what the terminal or the scheduler has sent to all processes anyway, so a signal may come twice at
one time. And a second SIGTERM asks for no more than the first: who wants to end the run at once sends SIGKILL.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SECONDS_OF_AN_ECHO = 1.0


class LookEnded(Exception):  # noqa: N818, what KeyboardInterrupt is to a command
    """A signal has ended a look at the watched images: in one process, and so in all."""


class InterruptCallback(TrainerCallback):
    """Turns the signals into a stop at the next step's end.

    Args:
        say: is told what is done about a signal.

    Attributes:
        received: the number of the first one that came, or None.
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self.say = say
        self.received: int | None = None
        self._received_at = 0.0
        self._is_saving = self._is_looking = False
        self._before: dict[int, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen, where signals can be listened to."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop."""
        if self.received is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A signal that came while a checkpoint was written has its checkpoint."""
        if self.received is not None:
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop listening."""
        self.release()

    def release(self) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def looking(self) -> Iterator[None]:
        """A signal ends what is inside; it changes nothing that is trained, and may take minutes.

        Raises:
            LookEnded: a signal came, or had come before.
        """
        self._is_looking = True
        try:
            if self.received is not None:
                raise LookEnded
            yield
        finally:
            self._is_looking = False

    @contextmanager
    def saving(self) -> Iterator[None]:
        """No signal ends what is inside."""
        self._is_saving = True
        try:
            yield
        finally:
            self._is_saving = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
            if self._is_looking:
                raise LookEnded
            return
        if number == signal.SIGTERM or now - self._received_at < _SECONDS_OF_AN_ECHO:
            return
        if self._is_saving:
            self.say("The checkpoint is being written; the run ends as soon as it is whole.")
            return
        self.release()
        raise KeyboardInterrupt
