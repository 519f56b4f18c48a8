"""The batches of a run, and the processes that read their images: as long as the run and no longer, and never idle."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from torch.utils.data import DataLoader


class RunLoader(DataLoaderShard):
    """What `Accelerator.prepare` makes of a loader, but for two things: its sampler knows its process itself, and its
    readers begin an epoch while the last step of the one before is computed.

    Args:
        samples: `set_epoch` is called where there is one.
        batch_sampler: with `set_epoch`.
        device: that batches are sent to; None: they stay.
        goes_on: whether another epoch comes, asked at the last batch of each.
        of_torch: what else torch's loader is told.
    """

    def __init__(
        self,
        samples: Any,
        batch_sampler: Any,
        *,
        device: torch.device | None,
        goes_on: Callable[[], bool] = lambda: False,
        **of_torch: Any,
    ) -> None:
        super().__init__(samples, device=device, batch_sampler=batch_sampler, _non_blocking=True, **of_torch)
        self.base_dataloader = _EarlyLoader(samples, batch_sampler=batch_sampler, **of_torch)
        self.goes_on = goes_on

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            # all of this epoch is there by now, so nobody reads who would take the next one's number for its own
            if self.end_of_dataloader and self.persistent_workers and self.goes_on():
                for told in (self.dataset, self.batch_sampler):
                    if hasattr(told, "set_epoch"):
                        told.set_epoch(self.iteration + 1)
                self.base_dataloader.begin()
            yield batch


class _EarlyLoader(DataLoader[Any]):
    """torch's loader, whose readers can be sent into an epoch before it is asked for."""

    _is_begun = False

    def begin(self) -> None:
        super().__iter__()
        self._is_begun = True

    def __iter__(self) -> Any:
        if self._is_begun:
            self._is_begun = False
            return self._iterator
        return super().__iter__()


def reader_init(then: Callable[[int], None] | None) -> Callable[[int], None]:
    """What a process that reads images begins with, and `then`; see `leave_signals`, and `end_readers` for its end."""
    atexit.unregister(end_readers)
    atexit.register(end_readers)
    return partial(leave_signals, then)


def stop_readers(loader: Any) -> None:
    """When a run is over: an error's traceback keeps its loader, which would wait ten seconds for each of its processes
    when it is collected. What reads the rest of an epoch that a run was resumed in has a loader of its own, and ends
    with the epoch.
    """
    iterator = getattr(loader, "_iterator", None)  # where torch's loaders keep processes that outlive an epoch
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


def end_readers() -> None:
    """When the program ends: processes that read images and are still there, say since an error's traceback keeps their
    loader, would be asked by SIGTERM, which they leave alone, and waited for without end (`multiprocessing.util`).
    """
    readers = [child for child in multiprocessing.active_children() if child.daemon]
    if readers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch takes the end of one for a fault
    for reader in readers:
        reader.kill()


def leave_signals(then: Callable[[int], None] | None, worker: int) -> None:
    """In a process that reads images: what ends the run comes to it too, and it would die before the run has saved.

    torch has set a handler for SIGTERM by now, which ends the process (`torch.utils.data._utils.worker._worker_loop`).
    It ends all the same once the run is over, since it looks whether it is still needed; see `end_readers` for one that
    nobody has told so.

    Args:
        then: what else is to be done.
        worker: its number.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if then is not None:
        then(worker)
