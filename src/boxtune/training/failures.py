"""What goes wrong in the middle of a run, in words for the user."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from safetensors import SafetensorError

from boxtune.errors import BoxtuneError, SaveError
from boxtune.training.callbacks.checkpoints import last_checkpoint

# A full disk is no OSError where a library writes in C++ or Rust: `torch.save` (caffe2/serialize/inline_container.cc)
# says "unexpected pos" or "file write failed", safetensors "I/O error: … (os error 28)".
_TORCH_WRITER = re.compile(r"inline_container|PytorchStreamWriter|unexpected pos|file write failed")


def explained(error: Exception, output_dir: Path) -> BoxtuneError | None:
    """The user's error behind one that came out of the trainer, or None where it is none."""
    if isinstance(error, BoxtuneError):
        return _from_worker(error)
    written = isinstance(error, OSError) or (isinstance(error, SafetensorError) and "I/O error" in str(error))
    if written or (isinstance(error, RuntimeError) and _TORCH_WRITER.search(str(error))):
        return _cannot_save(error, output_dir)
    return None


def _cannot_save(error: Exception, output_dir: Path) -> SaveError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error)
    full = full or isinstance(error, RuntimeError)  # torch does not say why; a full disk is the usual reason
    reason = "the disk is full" if full else str(error)
    last = last_checkpoint(output_dir)
    rest = (
        f"the last good checkpoint is {last}: make room, then go on with --resume"
        if last
        else "there is no checkpoint yet: make room, or choose another --output-dir, and start again"
    )
    return SaveError(f"Saving to {output_dir} failed, {reason}; {rest}.")


def _from_worker(error: BoxtuneError) -> BoxtuneError:
    """The message alone: torch re-raises a worker's error with the worker's traceback as its text."""
    text = str(error)
    if not text.startswith("Caught ") or "DataLoader worker" not in text:
        return error
    name = f"{type(error).__module__}.{type(error).__qualname__}: "
    return type(error)(text.rpartition(name)[2].strip())
