"""Batches of one kind, oldest first; what is full, gone, failing or stopping."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxtune.detections import Detections
from boxtune.errors import ConfigError
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.detector import Prediction
from boxtune.serve import batching
from boxtune.serve.batching import Batcher, FullError, Question, StoppedError
from serve.running import until


def question(number: int, label: str = "a", decoder: str = "text") -> Question:
    return Question(Image.new("RGB", (number + 1, 1)), (label,), decoder)


class Asked:
    """Answers with the width of each picture, and remembers the batches."""

    def __init__(self, *, held: bool = False) -> None:
        self.gate, self.batches = threading.Event(), []
        if not held:
            self.gate.set()

    def __call__(self, questions):
        self.batches.append([(*one.kind, one.image.width - 1) for one in questions])
        assert self.gate.wait(30)
        return [self.answer(one) for one in questions]

    def answer(self, one: Question) -> Prediction:
        return Prediction(DecodeResult("ok", Detections.empty(scored=True)), str(one.image.width - 1), False)


def batcher(asked, *, batch_size: int = 4, max_wait_s: float = 0.0, max_inside: int = 100) -> Batcher:
    return Batcher(asked, batch_size=batch_size, max_wait_s=max_wait_s, max_inside=max_inside)


def test_what_waits_is_asked_together_oldest_kind_first():
    asked = Asked()
    one = batcher(asked)
    kinds = ["a", "b", "a", "a", "b", "a", "a"]
    futures = [one.submit(question(number, label)) for number, label in enumerate(kinds)]
    one.start()
    assert [future.result(30).prediction.text for future in futures] == [str(number) for number in range(7)]
    assert [[entry[-1] for entry in batch] for batch in asked.batches] == [[0, 2, 3, 5], [1, 4], [6]]
    assert [future.result().num_together for future in futures] == [4, 2, 4, 4, 2, 4, 1]
    one.stop()
    assert not one.is_alive


@settings(max_examples=30)
@given(
    kinds=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["text", "head"])), max_size=40),
    batch_size=st.integers(1, 9),
)
def test_nothing_is_lost_or_mixed_up(kinds, batch_size):
    asked = Asked()
    one = batcher(asked, batch_size=batch_size)
    one.start()
    with ThreadPoolExecutor(8) as pool:
        numbered = list(enumerate(kinds))
        futures = list(pool.map(lambda each: one.submit(question(each[0], *each[1])), numbered))
        assert [future.result(30).prediction.text for future in futures] == [str(number) for number, _ in numbered]
    one.stop()
    assert all(len({entry[:-1] for entry in batch}) == 1 and len(batch) <= batch_size for batch in asked.batches)
    assert sorted(entry[-1] for batch in asked.batches for entry in batch) == list(range(len(kinds)))


def test_a_batch_that_is_not_full_waits_for_others():
    asked = Asked()
    one = batcher(asked, batch_size=2, max_wait_s=30)
    one.start()
    first = one.submit(question(0))
    with pytest.raises(TimeoutError):
        first.result(0.1)
    second = one.submit(question(1))
    assert first.result(5).num_together == second.result(5).num_together == 2
    one.stop()


def test_it_waits_no_longer_than_it_should():
    one = batcher(Asked(), batch_size=2, max_wait_s=0.05)
    one.start()
    assert 0.04 < one.submit(question(0)).result(30).seconds_waited < 20
    one.stop()


def test_what_is_cancelled_is_not_asked():
    asked = Asked(held=True)
    one = batcher(asked, batch_size=1)
    one.start()
    first = one.submit(question(0))
    until(lambda: asked.batches == [[(("a",), "text", 0)]])
    second, third = one.submit(question(1)), one.submit(question(2))
    assert second.cancel()
    assert not first.cancel()
    asked.gate.set()
    assert third.result(30).prediction.text == "2"
    assert [batch[0][-1] for batch in asked.batches] == [0, 2]
    one.stop()


def test_no_more_come_in_than_there_are_places():
    one = batcher(Asked(), max_inside=2)
    with one.place(), one.place(), pytest.raises(FullError, match="2 requests are waiting or at work"), one.place():
        pass
    with one.place():  # and a place that was left is free again
        pass


def test_the_memory_of_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(batching, "WAITING_PIXELS", 10)
    one = batcher(Asked())
    one.submit(question(20))  # a single one always fits
    with pytest.raises(FullError, match="memory"):
        one.submit(question(5))


def test_one_that_fails_fails_alone():
    class Failing(Asked):
        def answer(self, one):
            if one.image.width == 3:
                raise ConfigError("this one is wrong")
            return super().answer(one)

    one = batcher(Failing())
    futures = [one.submit(question(number)) for number in range(4)]
    one.start()
    with pytest.raises(ConfigError, match="this one is wrong"):
        futures[2].result(30)
    assert [futures[number].result(30).prediction.text for number in (0, 1, 3)] == ["0", "1", "3"]
    assert one.is_alive
    one.stop()


def test_stopping_answers_what_waits_and_refuses_what_comes():
    asked = Asked(held=True)
    one = batcher(asked, batch_size=1, max_wait_s=30)
    one.start()
    futures = [one.submit(question(number)) for number in range(3)]
    until(lambda: len(asked.batches) == 1)
    one.close()
    with pytest.raises(StoppedError), one.place():
        pass
    asked.gate.set()
    one.stop()
    assert [future.result(0).prediction.text for future in futures] == ["0", "1", "2"]


def test_stopping_waits_for_those_who_are_inside():
    one = batcher(Asked())
    one.start()
    with one.place():
        stopping = threading.Thread(target=one.stop)
        stopping.start()
        stopping.join(0.2)
        assert stopping.is_alive()
        future = one.submit(question(7))
        assert future.result(30).prediction.text == "7"
    stopping.join(30)
    assert not stopping.is_alive()


def test_one_that_never_began_can_be_stopped():
    batcher(Asked()).stop()
