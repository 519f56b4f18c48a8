"""Weights on a disk, told apart by one number."""

from __future__ import annotations

import hashlib
from pathlib import Path

from boxtune.errors import ModelError


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
