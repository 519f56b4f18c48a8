"""The model of transformers, whatever is around it."""

from __future__ import annotations

from typing import Any


def bare_model(model: Any) -> Any:
    """The model itself, with the adapters in its layers, of a `PeftModel` around it; any other as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
