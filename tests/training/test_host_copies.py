"""Copies are what was copied, whatever becomes of it, and a GPU is not waited for."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxtune.training import host_copies
from boxtune.training.host_copies import HostCopies, side_by_side

each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


class OnGpu(torch.Tensor):
    """A tensor of the CPU that says it is a GPU's."""

    is_cuda = True


class FakeCuda:
    """As much of CUDA as copies need, and what it was asked for in `said`."""

    def __init__(self, patch: pytest.MonkeyPatch, refuses: int = 0) -> None:
        self.said: list[str] = []
        tell, process = self.said.append, os.getpid()

        def cudart() -> SimpleNamespace:
            if os.getpid() != process:
                raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
            return SimpleNamespace(
                cudaHostRegister=lambda address, size, flags: (tell("lock"), refuses)[1],
                cudaHostUnregister=lambda address: tell("unlock"),
            )

        event = SimpleNamespace(synchronize=lambda: tell("read"))

        def stream(device: object = None) -> SimpleNamespace:
            return SimpleNamespace(
                device=device,
                wait_stream=lambda other: tell("copy behind"),
                record_event=lambda: event,
                wait_event=lambda event: tell("change behind"),
            )

        patch.setattr(torch.cuda, "cudart", cudart)
        patch.setattr(torch.cuda, "Stream", stream)
        patch.setattr(torch.cuda, "current_stream", stream)
        patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        patch.setattr(torch.cuda, "synchronize", lambda: tell("wait for all"))


def values_on(device: str) -> dict[object, object]:
    return {
        "nothing": torch.empty(0, 4, device=device),
        "odd": torch.arange(7, dtype=torch.uint8, device=device),
        ("pair", 1): torch.randn(33, 5, device=device),
        "half": torch.randn(3, device=device, dtype=torch.bfloat16),
        "turned": torch.randn(4, 6, device=device).T,
        "scalar": torch.tensor(3.0, device=device),
        "elsewhere": torch.tensor([1, 2]),
        "number": 0.5,
    }


def expect_same(found, values) -> None:
    assert found.keys() == values.keys()
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            assert found[name].device.type == "cpu"
            assert torch.equal(found[name], value.cpu())
        else:
            assert found[name] == value


@each_device
def test_copies_are_what_was_copied(device):
    values, copies = values_on(device), HostCopies()
    copies.take(values)
    before = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
    copies.wait_on_gpu()
    for value in values.values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    expect_same(copies.read(), before)


@each_device
def test_memory_is_asked_for_once(device):
    copies = HostCopies()
    places = []
    for _ in range(3):
        values = values_on(device)
        copies.take(values)
        expect_same(copies.read(), values)
        places.append({n: v.data_ptr() for n, v in copies.read().items() if isinstance(v, torch.Tensor)})
    assert places[0] == places[1] == places[2]


@each_device
def test_another_shape_another_kind_a_new_name(device):
    copies = HostCopies()
    for values in (
        {"a": torch.ones(2, device=device), "b": 1},
        {"a": torch.ones(3, device=device), "b": torch.zeros(2, device=device)},
        {"a": torch.ones(3, device=device, dtype=torch.float64), "c": torch.ones(5, device=device), "b": None},
        {"c": torch.zeros(5, device=device)},
        {},
    ):
        copies.take(values)
        expect_same(copies.read(), values)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for():
    """What it was given before goes on while copies are asked for, and what it is given behind them comes later."""
    value = torch.ones(64, 1 << 20, device="cuda")
    factor = torch.randn(8192, 8192, device="cuda")
    copies = HostCopies()
    for num_products in (1, 30):  # a kernel's first launch waits
        value.fill_(1)
        for _ in range(num_products):
            factor @ factor
        value += 1
        before = torch.cuda.Event()
        before.record()
        copies.take({"value": value})
        copies.wait_on_gpu()
        value.zero_()
        is_there = before.query()
        assert copies.read()["value"].eq(2).all()
    assert not is_there


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), max_size=3),
            st.sampled_from([torch.uint8, torch.bfloat16, torch.float32, torch.float64]),
        ),
        max_size=8,
    )
)
def test_copies_side_by_side_have_room_of_their_own(kinds):
    """Whatever is empty among them: with FSDP2 a process may hold nothing of a small parameter."""
    tensors = [torch.zeros(shape, dtype=dtype) for shape, dtype in kinds]
    memory = torch.zeros(256 * (8 + len(tensors)) * 4, dtype=torch.uint8)
    room = sum(-(-t.nbytes // 256) * 256 for t in tensors)
    pieces = side_by_side(memory[:room], tensors)
    for number, (piece, tensor) in enumerate(zip(pieces, tensors, strict=True), start=1):
        assert (piece.shape, piece.dtype) == (tensor.shape, tensor.dtype)
        piece.fill_(number)
    for number, piece in enumerate(pieces, start=1):
        assert piece.eq(number).all()


def test_what_a_gpu_is_asked_for(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    values = {
        name: value.as_subclass(OnGpu) if isinstance(value, torch.Tensor) and name != "elsewhere" else value
        for name, value in values_on("cpu").items()
    }
    copies = HostCopies()
    for _ in range(2):
        copies.take(values)
        copies.wait_on_gpu()
        expect_same(copies.read(), values)
    assert cuda.said == ["lock", *["copy behind", "change behind", "read"] * 2]
    copies.release()
    assert cuda.said[-2:] == ["wait for all", "unlock"]
    assert not copies.read()
    assert not host_copies._OWN_PAGES
    del copies  # and its finalizer has nothing left to do
    assert cuda.said.count("unlock") == 1


@pytest.mark.parametrize("refused", ["lock", "pages"])
def test_memory_that_cannot_be_locked_serves_too(refused, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    cuda = FakeCuda(monkeypatch, refuses=1)
    if refused == "pages":
        monkeypatch.setattr(mmap, "mmap", refuse)
    values = {"a": torch.ones(5).as_subclass(OnGpu)}
    copies = HostCopies()
    copies.take(values)
    expect_same(copies.read(), values)
    del copies
    assert "unlock" not in cuda.said
    assert not host_copies._OWN_PAGES


def test_a_process_that_was_started_gives_back_nothing(monkeypatch):
    """It does not have that memory: something else may lie there."""
    FakeCuda(monkeypatch)
    copies = HostCopies()
    copies._lock(1 << 26, torch.device("cpu"))
    gc.collect()
    if not (child := os.fork()):
        status = 1
        try:
            blocks = [torch.ones(1 << 22) for _ in range(16)]
            del copies
            gc.collect()
            status = int(len(host_copies._OWN_PAGES) != 1 or not all(block.eq(1).all() for block in blocks))
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    copies.release()
    assert not host_copies._OWN_PAGES
