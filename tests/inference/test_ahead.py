"""Work done ahead: the same results in the same order, errors in their place, and nothing read without end."""

from __future__ import annotations

import threading

import pytest

from boxtune.inference.ahead import ahead


@pytest.mark.parametrize("number", [0, 1, 3, 50])
def test_the_results_of_map(number):
    assert list(ahead(range(20), lambda item: item**2, number)) == [item**2 for item in range(20)]


@pytest.mark.parametrize("number", [1, 4])
def test_no_more_is_read_than_was_allowed(number):
    read = []

    def items():
        for item in range(100):
            read.append(item)
            yield item

    for done, _ in enumerate(ahead(items(), str, number), start=1):
        assert len(read) <= done + number


def test_it_is_done_while_the_caller_is_busy():
    begun = threading.Event()
    stream = ahead(range(2), lambda item: begun.set() if item else None, 1)
    next(stream)
    assert begun.wait(timeout=30)


@pytest.mark.parametrize("number", [0, 2])
def test_an_error_has_its_place(number):
    def work(item):
        if item == 3:
            raise ValueError("three")
        return item

    stream = ahead(range(9), work, number)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(stream)


@pytest.mark.parametrize("number", [0, 2])
def test_an_error_while_reading_has_its_place(number):
    def items():
        yield from range(3)
        raise OSError("gone")

    stream = ahead(items(), str, number)
    assert [next(stream) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(OSError, match="gone"):
        next(stream)


@pytest.mark.parametrize("number", [0, 2])
def test_work_that_raises_stop_iteration_does_not_end_the_stream_in_silence(number):
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(ahead([[1], []], lambda item: next(iter(item)), number))
