"""Copies in the machine's memory of what a GPU holds, made while it goes on computing."""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch

_ALIGNED = 256  # bytes between the beginnings of two copies are a multiple of it


class HostCopies:
    """Copies of tensors by name, written over one another: memory is asked for once.

    Those of a GPU lie in memory that is locked to its place. To any other a GPU writes through a small buffer of its
    driver, with everything waiting: of 1.8 GiB an H200 took two seconds.
    """

    def __init__(self) -> None:
        self._copies: Mapping[Any, Any] = {}
        self._stream: torch.cuda.Stream | None = None
        self._written: torch.cuda.Event | None = None  # when all are there; None: they are
        self._locked: list[torch.Tensor] = []
        weakref.finalize(self, _unlock, self._locked)

    @torch.no_grad()
    def take(self, values: Mapping[Any, Any]) -> None:
        """Copy all, and forget what was copied before under other names.

        Args:
            values: name → a tensor of the CPU or of one GPU, or anything else, which is kept as it is. Nobody may
                change these tensors before `wait_on_gpu` was called.
        """
        before = self.read()
        tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        new = [name for name, value in tensors.items() if not _fits(before.get(name), value)]
        room = dict(zip(new, self._room([tensors[name] for name in new]), strict=True))
        copies = {name: room[name] if name in room else before[name] for name in tensors}
        self._copies = {**values, **copies}
        device = next((value.device for value in tensors.values() if value.is_cuda), None)
        if device is None:
            for name, value in tensors.items():
                copies[name].copy_(value)
            return
        self._stream = self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            for name, value in tensors.items():
                copies[name].copy_(value, non_blocking=True)
            self._written = self._stream.record_event()

    def wait_on_gpu(self) -> None:
        """Have the GPU put off what it is given from now on until the copies are there; the CPU goes on."""
        if self._written is not None:
            torch.cuda.current_stream().wait_event(self._written)

    def read(self) -> Mapping[Any, Any]:
        """The copies, by name; waits until they are there."""
        if self._written is not None:
            self._written.synchronize()
            self._written = None
        return self._copies

    def _room(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """A tensor like each on the CPU; those of a GPU lie side by side."""
        on_gpu = [tensor for tensor in tensors if tensor.is_cuda]
        sizes = [-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in on_gpu]
        pieces = iter(self._lock(sum(sizes)).split(sizes) if sum(sizes) else [])

        def like(tensor: torch.Tensor) -> torch.Tensor:
            if not (tensor.is_cuda and tensor.nbytes):
                return torch.empty(tensor.shape, dtype=tensor.dtype)
            return next(pieces)[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)

        return [like(tensor) for tensor in tensors]

    def _lock(self, num_bytes: int) -> torch.Tensor:
        """Memory that a GPU can write to by itself, as far as the system allows.

        torch's own (`pin_memory=True`) has sizes of powers of two, up to twice as much. Processes that this one starts
        do not get it: the kernel would give each a copy, since locked memory cannot be shared before it is written to.
        Touched by all threads first, in large pages, 1 GiB is there in 0.1 s, else in 0.5.
        """
        pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_DONTFORK)
        with contextlib.suppress(OSError):  # a kernel that has none
            pages.madvise(mmap.MADV_HUGEPAGE)
        memory = torch.frombuffer(pages, dtype=torch.uint8).zero_()
        if int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), num_bytes, 0)) == 0:
            self._locked.append(memory)
        return memory


def _unlock(locked: list[torch.Tensor]) -> None:
    for memory in locked:
        torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())
    locked.clear()


def _fits(copy: Any, tensor: torch.Tensor) -> bool:
    return isinstance(copy, torch.Tensor) and copy.shape == tensor.shape and copy.dtype == tensor.dtype
