"""Work on what comes next while the device is busy with what came before."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Begun = TypeVar("Begun")
Result = TypeVar("Result")


def ahead(items: Iterable[Item], work: Callable[[Item], Result], number: int) -> Iterator[Result]:
    """`map`, in order, with up to `number` items worked on in threads before they are asked for; 0 works when asked.

    Threads, since preparing an image is done by libraries that let go of the interpreter. An error comes up where its
    item stands in the order, and nothing more is read then.
    """
    if not number:
        for item in items:
            yield work(item)
        return
    stream, pending, more = iter(items), deque[Future[Result]](), True
    with ThreadPoolExecutor(min(number, os.cpu_count() or 1, 8)) as pool:
        try:
            while True:
                while more and len(pending) <= number:
                    try:
                        pending.append(pool.submit(work, next(stream)))
                    except StopIteration:
                        more = False
                    except Exception as error:
                        more = False
                        pending.append(Future())
                        pending[-1].set_exception(error)
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def one_behind(
    items: Iterable[Item], begin: Callable[[Item], Begun], finish: Callable[[Begun], Result]
) -> Iterator[Result]:
    """`finish(begin(item))` of each, in order; the next one is begun before one is finished.

    An error in the middle comes up behind the results of the items before it.
    """
    stream, begun = iter(items), deque[Begun]()
    failure: Exception | None = None
    while failure is None:
        try:
            begun.append(begin(next(stream)))
        except StopIteration:
            break
        except Exception as error:
            failure = error
        if len(begun) > 1:
            yield finish(begun.popleft())
    while begun:
        yield finish(begun.popleft())
    if failure is not None:
        raise failure
