"""A command in several processes, one a device (`torchrun -m boxtune …`): the first one speaks and writes.

Which process this is says the environment, as torchrun and `accelerate launch` set it (torch.distributed, "Environment
variable initialization"); so it is known before any device is touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_LONGEST_WAIT = timedelta(days=7)  # for the slowest; the launcher ends all where one has failed


def rank() -> int:
    """Which of all processes this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this process is the only one, or the first of all machines."""
    return rank() == 0


def count() -> int:
    """How many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_share(num_items: int, block: int) -> list[int]:
    """The items of this process: it takes every so-many-th block.

    Blocks are the same for any number of processes, so what is computed block by block comes out the same.

    Args:
        num_items: of all processes together.
        block: neighbouring items that stay together; the last block may be shorter.
    """
    return [item for item in range(num_items) if item // block % count() == rank()]


@contextmanager
def joined() -> Iterator[None]:
    """Processes can talk inside; nothing is done where there is one, or where they can already."""
    if count() == 1:
        yield
        return
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def of_all(work: Callable[[], T]) -> list[T]:
    """What the work of each process gives, in the order of the processes; for all of them to call, `joined`.

    What it gives, and what it may raise, must be picklable.

    Raises:
        BaseException: in all processes, what the work of one of them raised.
    """
    if count() == 1:
        return [work()]
    from torch import distributed

    result: T | None = None
    error: BaseException | None = None
    try:
        result = work()
    except (KeyboardInterrupt, SystemExit):  # what has sent these has sent them to all, or ends all
        raise
    except BaseException as raised:  # again below, here and in all others
        error = raised
    everywhere: list[Any] = [None] * count()
    distributed.all_gather_object(everywhere, (result, error))
    failures = [error, *(one for _, one in everywhere)]  # its own error first
    for failure in failures:
        if failure is not None:
            raise failure
    return [one for one, _ in everywhere]
