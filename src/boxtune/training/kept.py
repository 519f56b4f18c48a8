"""What a callback finds again that a sitting before has written into its checkpoint."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerState


def kept_attributes(callback: TrainerCallback, state: TrainerState) -> dict[str, Any]:
    """The `attributes` that a callback's `state()` had told; empty in a run that begins, or where it was not there.

    Args:
        callback: an `ExportableState`.
        state: of the run that begins or goes on.
    """
    states: Any = state.stateful_callbacks  # a list until the first checkpoint, a dict after it
    saved = states.get(type(callback).__name__) if isinstance(states, dict) else None
    return saved["attributes"] if state.global_step and isinstance(saved, dict) else {}
