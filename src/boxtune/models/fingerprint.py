"""Which weights a folder holds, as a number to compare."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from boxtune.errors import ModelError
from boxtune.models.strangers import files_of_weights

_READ_WHOLE: Final = 64 * 2**20
_NUM_SAMPLES: Final = 256
_SAMPLE: Final = 4096


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's safetensors files, in hex; about a second a gigabyte.

    Raises:
        ModelError: there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no weights (*.safetensors).")
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            total.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def sampled_fingerprint(folder: Path) -> str | None:
    """SHA-256 over names, sizes and samples of a model's weights, in hex, in milliseconds; None where there are none.

    Of a file over 64 MiB 256 evenly spread blocks are read: training changes nearly every number, and so nearly every
    block. What was changed by hand in a place or two may go unseen.

    Args:
        folder: of the model; a head or an adapter that lies beside it does not count.
    """
    files = [path for name in files_of_weights(folder) if (path := folder / name).is_file()]
    if not files:
        return None
    total = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        total.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as stream:
            if size <= _READ_WHOLE:
                total.update(hashlib.file_digest(stream, "sha256").digest())
                continue
            for number in range(_NUM_SAMPLES):
                stream.seek(number * (size - _SAMPLE) // (_NUM_SAMPLES - 1))
                total.update(stream.read(_SAMPLE))
    return total.hexdigest()
