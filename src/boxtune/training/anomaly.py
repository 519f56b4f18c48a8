"""The operation that a NaN comes from, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from boxtune.errors import ModelError


@contextmanager
def naming_operations(wanted: bool, step: int, sample_ids: Sequence[str]) -> Iterator[None]:
    """Autograd's anomaly mode, where it is asked for: torch prints where the operation stands in the forward pass.

    Args:
        wanted: False does nothing.
        step: its number, from 1.
        sample_ids: of the batch.

    Raises:
        ModelError: an operation's gradient is NaN; names it, the step and its images.
    """
    if not wanted:
        yield
        return
    try:
        with torch.autograd.set_detect_anomaly(True):
            yield
    except RuntimeError as error:
        if "returned nan values" not in str(error):  # torch/csrc/autograd/engine.cpp
            raise
        raise ModelError(
            f"Step {step}, images {', '.join(sample_ids)}: {error} Where it stands in the forward pass is printed "
            "above; trainer.stability.anomaly_mode=false goes on without such a step."
        ) from error
