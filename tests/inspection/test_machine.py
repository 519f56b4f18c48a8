"""GPUs, kernels and the processor: as they are on this machine, and as they would be on others."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import types
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from rich.console import Console

from boxtune.inspection import gpu, machine
from boxtune.inspection.gpu import clear_memory, find_available_gpus, list_gpus, why_no_gpu
from boxtune.inspection.kernels import check_4bit, check_flash_attention
from boxtune.inspection.machine import describe_cpu, describe_machine, print_machine
from boxtune.models import attention_kernels

GIB = 2**30


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "driver_version", lambda: None)
    monkeypatch.setattr(machine, "driver_version", lambda: None)


@pytest.fixture
def three_gpus(monkeypatch):
    """A small free one, a large half-free one, and one that another process holds alone."""
    free = [8 * GIB, 40 * GIB, None]

    def properties(index):
        return types.SimpleNamespace(name=f"GPU {index}", major=7 + index, minor=5, total_memory=80 * GIB)

    def mem_get_info(index):
        if free[index] is None:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nmore words")
        return free[index], 80 * GIB

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)


def test_without_a_gpu(no_gpu):
    assert find_available_gpus() == list_gpus() == []
    assert "no NVIDIA driver answers" in why_no_gpu()
    assert clear_memory() == 0


def test_gpus_by_free_memory(three_gpus):
    assert [found.device for found in find_available_gpus()] == ["cuda:1", "cuda:0"]
    assert [found.index for found in find_available_gpus(20 * GIB)] == [1]
    assert find_available_gpus(60 * GIB) == []
    assert [found.bf16 for found in list_gpus()] == [False, True, True]
    assert list_gpus()[2].problem == "CUDA error: all CUDA-capable devices are busy"
    assert why_no_gpu() is None


@pytest.mark.parametrize(
    ("built", "visible", "driver", "said"),
    [
        (False, None, "580.1", "built without CUDA although the machine has one (driver 580.1)"),
        (False, None, None, "built without CUDA: install"),
        (True, "", "580.1", "CUDA_VISIBLE_DEVICES='' hides the GPUs"),
        (True, None, "390.1", "driver 390.1 is there: the driver may be too old"),
    ],
)
def test_why_there_is_no_gpu(no_gpu, monkeypatch, built, visible, driver, said):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    monkeypatch.setattr(gpu, "driver_version", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert said in (why_no_gpu() or "")


def test_driver_version_is_what_the_driver_says(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu.driver_version() == "580.65.06"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpu.driver_version() is None


def test_kernels_without_a_gpu(no_gpu):
    checks = {check.name: check for check in check_flash_attention()}
    assert {"flash-attn 2", "flash-attn 3", "flash-attn 4", "torch varlen", "sdpa math", "sdpa flash"} <= set(checks)
    assert checks["sdpa math"].usable
    for name in ("flash-attn 2", "torch varlen", "sdpa cudnn"):
        assert not checks[name].usable
        assert checks[name].reason
    assert all(check.reason == "" for check in checks.values() if check.usable)
    assert "\n" not in "".join(check.reason for check in checks.values())


def installed(monkeypatch, distribution, version, module, act):
    def found(name):
        if name == distribution:
            return version
        raise PackageNotFoundError(name)

    monkeypatch.setattr(attention_kernels, "version", found)
    fake = types.ModuleType(module)
    fake.flash_attn_varlen_func = act
    monkeypatch.setitem(sys.modules, module, fake)


def check_of(name):
    return next(check for check in check_flash_attention() if check.name == name)


def test_a_package_without_a_gpu(no_gpu, monkeypatch):
    installed(monkeypatch, "flash-attn", "2.8.3", "flash_attn", None)
    check = check_of("flash-attn 2")
    assert (check.usable, check.version, check.reason) == (False, "2.8.3", "needs a CUDA GPU, and torch sees none")
    assert check_of("flash-attn 4").version is None  # another distribution with the same module


@pytest.mark.parametrize(
    ("capability", "error", "usable", "reason"),
    [
        ((8, 0), None, True, ""),
        ((7, 5), None, False, "needs compute capability 8.0, the GPU has 7.5"),
        ((9, 0), ImportError("undefined symbol: x\nmore"), False, "ImportError: undefined symbol: x"),
        ((9, 0), None, False, "RuntimeError: it is off by 1 for heads of 128"),
    ],
)
def test_a_package_on_a_gpu(monkeypatch, capability, error, usable, reason):
    def act(query, key, value, *, cu_seqlens_q, max_seqlen_q, softmax_scale, causal, **_):
        if error is not None:
            raise error
        if reason.startswith("RuntimeError"):
            value = value + 1
        segments = attention_kernels.attend_by_segments
        return segments(query, key, value, cu_seqlens_q, max_seqlen_q, softmax_scale, causal)

    real = attention_kernels._try
    installed(monkeypatch, "flash-attn", "2.8.3", "flash_attn", act)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(attention_kernels, "_try", lambda kernel: real(kernel, "cpu"))
    check = attention_kernels.check_package(attention_kernels.PACKAGES[0], "cuda")
    assert (check.usable, check.version, check.reason) == (usable, "2.8.3", reason)


def test_4_bits_on_the_cpu(no_gpu):
    pytest.importorskip("bitsandbytes")
    on_cpu, on_gpu = check_4bit()
    assert (on_cpu.usable, on_cpu.reason) == (True, "")
    assert (on_gpu.usable, on_gpu.reason) == (False, "needs a CUDA GPU, and torch sees none")


def test_4_bits_without_bitsandbytes(no_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    check = check_4bit()[0]
    assert not check.usable
    assert "pip install 'bitsandbytes" in check.reason


def test_the_processor_as_the_system_describes_it(monkeypatch, tmp_path):
    facts, memory, limit = (tmp_path / name for name in ("cpuinfo", "meminfo", "max"))
    facts.write_text("processor : 0\nflags : fpu avx512f avx512_bf16\n")
    memory.write_text("MemTotal: 999 kB\nMemAvailable: 2048 kB\n")
    limit.write_text("1048576\n")
    for name, path in (("_CPU_FACTS", facts), ("_MEMORY_FACTS", memory), ("_CONTAINER_LIMIT", limit)):
        monkeypatch.setattr(machine, name, path)
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    cpu = describe_cpu()
    assert (cpu.total_bytes, cpu.free_bytes, cpu.bf16) == (2**20, 2**20, True)
    facts.write_text("flags : fpu avx2\n")
    limit.write_text("max\n")
    assert describe_cpu().bf16 is False
    assert describe_cpu().total_bytes > 2**30
    memory.unlink()
    facts.unlink()
    assert (describe_cpu().free_bytes, describe_cpu().bf16) == (None, None)


def shown(found, width=60) -> str:
    out = io.StringIO()
    print_machine(found, Console(file=out, width=width))
    return out.getvalue()


def test_printed_without_a_gpu(no_gpu):
    found = describe_machine()
    said = shown(found)
    assert "No GPU: no NVIDIA driver answers" in said
    assert "cores, " in said
    assert "yes  sdpa math" in said
    assert "\x1b" not in said
    assert json.loads(json.dumps(dataclasses.asdict(found)))["gpus"] == []


def test_printed_with_gpus(no_gpu, monkeypatch):
    gpus = (
        gpu.Gpu(0, "NVIDIA H200", (9, 0), 100 * GIB, 140 * GIB, True),
        gpu.Gpu(1, "Tesla T4", (7, 5), 0, 15 * GIB, False, "busy"),
    )
    said = shown(dataclasses.replace(describe_machine(), gpus=gpus, why_no_gpu=None, driver="580.1"))
    assert "cuda:0  NVIDIA H200, capability 9.0, 100 GiB of 140 GiB free, bf16" in said
    assert "cuda:1  Tesla T4, capability 7.5, busy, no bf16: set model.dtype=float32" in said
    assert "driver 580.1" in said
    assert "No GPU" not in said


@pytest.mark.gpu
def test_on_a_real_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    best = find_available_gpus()[0]
    assert 0 < best.free_bytes <= best.total_bytes
    checks = {check.name: check for check in check_flash_attention()}
    assert checks["sdpa math"].usable
    assert checks["torch varlen"].usable == (best.capability >= (8, 0)), checks["torch varlen"]
    held = torch.empty(2**26, device=best.device)
    del held
    assert clear_memory() >= 2**26 * 4
