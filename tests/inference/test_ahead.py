"""Work done ahead: the same results in the same order, errors in their place, and nothing read without end."""

from __future__ import annotations

import threading

import pytest

from boxtune.inference.ahead import ahead, one_behind


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


def test_the_next_one_is_begun_before_one_is_finished():
    said = []
    stream = one_behind(range(3), lambda item: (said.append(f"begin {item}"), item)[1], lambda item: item * 10)
    for found in stream:
        said.append(f"end {found // 10}")
    assert said == ["begin 0", "begin 1", "end 0", "begin 2", "end 1", "end 2"]
    assert list(one_behind([], str, str)) == []


@pytest.mark.parametrize("where", ["items", "begin", "finish"])
def test_results_before_an_error_are_given_out_first(where):
    def items():
        yield from range(3)
        if where == "items":
            raise OSError("gone")

    def failing(name):
        def work(item):
            if item == 2 and where == name:
                raise OSError("gone")
            return item

        return work

    found = []
    with pytest.raises(OSError, match="gone"):
        found.extend(one_behind(items(), failing("begin"), failing("finish")))
    assert found == ([0, 1, 2] if where == "items" else [0, 1])
