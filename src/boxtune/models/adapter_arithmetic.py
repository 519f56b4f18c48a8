"""Adapters that compute in the step's dtype, while their weights stay fp32.

PEFT makes the input of an fp32 adapter fp32 (`BaseTunerLayer._cast_input_dtype`, peft 0.21), and autocast makes it bf16
again in the next line. Both ways are exact for numbers that were bf16, so leaving them out changes no bit. DoRA and
other variants look at the inputs themselves, and are left alone.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer


def compute_as_autocast(model: Any, wanted: bool = True) -> int:
    """Leave the inputs of plain adapters as they come, which needs autocast around the model; returns their number.

    Args:
        model: any; without adapters nothing happens.
        wanted: False puts PEFT's conversion back.
    """
    adapters = [module for module in model.modules() if isinstance(module, BaseTunerLayer) and _is_plain(module)]
    for adapter in adapters:
        setattr(adapter, "cast_input_dtype_enabled", not wanted)  # noqa: B010  (the base class does not declare it)
    return len(adapters)


def _is_plain(adapter: Any) -> bool:
    return not getattr(adapter, "lora_variant", None)
