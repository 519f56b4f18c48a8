"""What goes wrong in the middle of a run, in words for the user: what, where, what is saved, and how to go on."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import torch
from safetensors import SafetensorError

from boxtune.config.schema import Config
from boxtune.errors import BoxtuneError, DataError, ModelError, RunError, SaveError
from boxtune.training.callbacks.checkpoints import last_checkpoint

# A full disk is no OSError where a library writes in C++ or Rust: `torch.save` (caffe2/serialize/inline_container.cc)
# says "unexpected pos" or "file write failed", safetensors "I/O error: … (os error 28)".
_TORCH_WRITER = re.compile(r"inline_container|PytorchStreamWriter|unexpected pos|file write failed")
# `DefaultCPUAllocator: can't allocate memory` (c10/core/impl/alloc_cpu.cpp), and what cuBLAS says where it has no room
_NO_MEMORY = re.compile(r"DefaultCPUAllocator|CUBLAS_STATUS_ALLOC_FAILED|out of memory")
_WORKER_DIED = re.compile(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (?:is killed by signal: ([^.]+)|exited)")
_OF_THE_DISK = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def is_about_saving(error: Exception) -> bool:
    """Whether something could not be written."""
    if isinstance(error, SaveError):
        return True
    if isinstance(error, OSError):
        return not isinstance(error, ConnectionError | TimeoutError)
    if isinstance(error, SafetensorError):
        return "I/O error" in str(error)
    return isinstance(error, RuntimeError) and _TORCH_WRITER.search(str(error)) is not None


def explained(error: Exception, output_dir: Path, home: Path | None = None) -> BoxtuneError | None:
    """The user's error behind one that came out of the trainer, or None where it is none.

    Args:
        error: that came out.
        output_dir: of the run.
        home: what `--output-dir` is on the command line; None: the same.
    """
    if is_about_saving(error) and not isinstance(error, SaveError):
        return _cannot_save(error, output_dir, home or output_dir)
    found = _without_traceback(error) if isinstance(error, BoxtuneError) else _from_machine(error)
    if isinstance(found, DataError | ModelError | RunError):
        rest = [*getattr(error, "__notes__", ()), _how_to_go_on(output_dir, home or output_dir)]
        return type(found)(" ".join([str(found), *filter(None, rest)]))
    return found


def what_would_fit(config: Config, num_samples: int, num_tokens: int, num_fitted: int) -> str:
    """Settings for samples that did not fit into memory together.

    Args:
        config: fitted.
        num_samples: that were computed at once.
        num_tokens: of them.
        num_fitted: the most tokens that were computed at once until then; 0: none were.
    """
    settings = config.trainer
    tries = []
    if num_samples > 1 and settings.oom == "stop":
        tries.append("--oom retry (halves batches from now on; the optimum stays)")
    if not settings.gradient_checkpointing:
        tries.append("trainer.gradient_checkpointing=true")
    anew = []
    budget = config.collator.token_budget
    if num_samples > 1 and isinstance(budget, int) and config.collator.batching == "packed":
        anew.append(f"collator.token_budget={num_fitted or num_tokens // 2}")
    elif num_samples > 1:
        anew.append(
            f"trainer.per_device_train_batch_size={num_samples // 2} "
            f"trainer.gradient_accumulation_steps={2 * settings.gradient_accumulation_steps}"
        )
    else:
        anew.append(f"model.max_pixels={int(config.model.max_pixels) // 2}")
    both = [f"{', or '.join(tries)}, when it is resumed"] if tries else []
    return f"Less memory is needed with {'; or '.join([*both, f'in a new run {anew[0]}'])}."


def _from_machine(error: Exception) -> RunError | None:
    died = _WORKER_DIED.search(str(error)) if isinstance(error, RuntimeError) else None
    if died is not None:
        how = f"killed by signal: {died[2].strip()}" if died[2] else "it exited"
        return RunError(
            f"A process that reads images died (pid {died[1].strip()}, {how}): usually the machine's memory, or its "
            "shared memory, is too small for so many; set data.num_workers to fewer, or 0."
        )
    if is_out_of_memory(error):
        first = " ".join(str(error).split())[:200]
        return RunError(f"Out of memory outside of a batch ({first}): end other programs, or train fewer weights.")
    return None


def _how_to_go_on(output_dir: Path, home: Path) -> str:
    last = last_checkpoint(output_dir)
    if last is None:
        return ""
    step = last.name.removeprefix("checkpoint-")
    return f"Saved at step {step}; go on with: boxtune train --resume --output-dir {home}"


def _cannot_save(error: Exception, output_dir: Path, home: Path) -> SaveError:
    number = getattr(error, "errno", None)
    reason = _OF_THE_DISK.get(number, str(error)) if isinstance(number, int) else str(error)
    if isinstance(error, RuntimeError) or "os error 28" in str(error):
        reason = _OF_THE_DISK[errno.ENOSPC]  # torch does not say why; a full disk is the usual reason
    last = last_checkpoint(output_dir)
    rest = (
        f"the last good checkpoint is {last}: make room, then go on with --resume (--output-dir {home})"
        if last
        else "there is no checkpoint yet: make room, or choose another --output-dir, and start again"
    )
    return SaveError(f"Saving to {output_dir} failed, {reason}; {rest}.")


def _without_traceback(error: BoxtuneError) -> BoxtuneError:
    """The message alone: torch re-raises a worker's error with the worker's traceback as its text."""
    text = str(error)
    if not text.startswith("Caught ") or "DataLoader worker" not in text:
        return error
    name = f"{type(error).__module__}.{type(error).__qualname__}: "
    return type(error)(text.rpartition(name)[2].strip())
