"""Copies in the machine's memory of what a GPU holds, made while it goes on computing."""

from __future__ import annotations

import contextlib
import copy
import mmap
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch

_ALIGNED = 256  # bytes between the beginnings of two copies are a multiple of it
_OWN_PAGES: dict[int, torch.Tensor] = {}
"""Address → memory that processes which this one starts do not have. It is never given back in one of them: whatever is
at these addresses there is somebody else's."""


class HostCopies:
    """Copies of tensors by name, written over one another: memory is asked for once.

    Those of a GPU lie in memory that is locked to its place. To any other a GPU writes through a small buffer of its
    driver, with everything waiting: of 1.8 GiB an H200 took two seconds.
    """

    def __init__(self) -> None:
        self._copies: Mapping[Any, Any] = {}
        self._stream: torch.cuda.Stream | None = None
        self._written: torch.cuda.Event | None = None  # when all are there; None: they are
        self._locked: list[int] = []
        self._pages: list[int] = []
        self._give_back = weakref.finalize(self, _give_back, self._locked, self._pages, os.getpid())

    @torch.no_grad()
    def take(self, values: Mapping[Any, Any]) -> None:
        """Copy all, and forget what was copied before under other names. Where it fails, some copies are new.

        Args:
            values: name → a tensor of the CPU or of one GPU, or anything else, which is copied at once. Nobody may
                change these tensors before `wait_on_gpu` was called.
        """
        before = self.read()
        tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        rest = {name: copy.deepcopy(value) for name, value in values.items() if name not in tensors}
        new = {name: value for name, value in tensors.items() if not _fits(before.get(name), value)}
        room = self._room(new)
        copies = {name: room[name] if name in room else before[name] for name in tensors}
        self._copies = rest | copies
        device = next((value.device for value in tensors.values() if value.is_cuda), None)
        if device is None:
            for name, value in tensors.items():
                copies[name].copy_(value)
            return
        self._stream = self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(self._stream):
                for name, value in tensors.items():
                    copies[name].copy_(value, non_blocking=True)
        finally:
            self._written = self._stream.record_event()

    def wait_on_gpu(self) -> None:
        """Have the GPU put off what it is given from now on until the copies are there; the CPU goes on."""
        if self._written is not None:
            assert self._stream is not None
            torch.cuda.current_stream(self._stream.device).wait_event(self._written)

    def read(self) -> Mapping[Any, Any]:
        """The copies, by name; waits until they are there."""
        if self._written is not None:
            self._written.synchronize()
            self._written = None
        return self._copies

    def release(self) -> None:
        """Forget all, for good, and give the memory back."""
        self._copies, self._written = {}, None
        self._give_back()

    def _room(self, tensors: Mapping[Any, torch.Tensor]) -> dict[Any, torch.Tensor]:
        """A tensor like each on the CPU."""
        on_gpu = [name for name, tensor in tensors.items() if tensor.is_cuda]
        room = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in tensors.items() if not t.is_cuda}
        wanted = [tensors[name] for name in on_gpu]
        num_bytes = sum(map(_room_of, wanted))
        memory = self._lock(num_bytes, wanted[0].device) if num_bytes else torch.empty(0, dtype=torch.uint8)
        return room | dict(zip(on_gpu, side_by_side(memory, wanted), strict=True))

    def _lock(self, num_bytes: int, device: torch.device) -> torch.Tensor:
        """Memory that a GPU can write to by itself; where the system locks none, any other, which it writes to slowly.

        torch's own (`pin_memory=True`) has sizes of powers of two, up to twice as much. Processes that this one starts
        do not get it: the kernel would give each a copy, since locked memory cannot be shared before it is written to.
        Touched by all threads first, in large pages, 1 GiB is there in 0.1 s, else in 0.5.
        """
        try:
            pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            return torch.empty(num_bytes, dtype=torch.uint8)
        for advice in (mmap.MADV_DONTFORK, mmap.MADV_HUGEPAGE):
            with contextlib.suppress(OSError):  # a kernel that does not know it
                pages.madvise(advice)
        memory = torch.frombuffer(pages, dtype=torch.uint8).zero_()
        address = memory.data_ptr()
        _OWN_PAGES[address] = memory
        self._pages.append(address)
        if int(torch.cuda.cudart().cudaHostRegister(address, num_bytes, 0)) == 0:
            self._locked.append(address)
        else:
            with contextlib.suppress(RuntimeError):  # CUDA keeps the refusal for whoever launches a kernel next
                torch.zeros(1, device=device)
        return memory


def side_by_side(memory: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """For each tensor one like it, contiguous, in one piece of memory.

    Args:
        memory: `[bytes]`, uint8; as much as `_room_of` all of them.
        tensors: of any shapes and dtypes.
    """
    pieces = memory.split([_room_of(tensor) for tensor in tensors])
    return [
        piece[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for piece, tensor in zip(pieces, tensors, strict=True)
    ]


def _room_of(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNED) * _ALIGNED


def _give_back(locked: list[int], pages: list[int], process: int) -> None:
    if os.getpid() != process:
        return
    if locked:
        with contextlib.suppress(RuntimeError):  # of a GPU that has failed, and says so elsewhere
            torch.cuda.synchronize()
        for address in locked:
            torch.cuda.cudart().cudaHostUnregister(address)
    for address in pages:
        del _OWN_PAGES[address]
    locked.clear()
    pages.clear()


def _fits(old: Any, tensor: torch.Tensor) -> bool:
    return isinstance(old, torch.Tensor) and old.shape == tensor.shape and old.dtype == tensor.dtype
