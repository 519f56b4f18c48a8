"""boxtune teaches vision-language models (Qwen2-VL, Qwen2.5-VL, Qwen3-VL) to detect objects, and measures them.

The names below are the public ones; each is imported when it is first used, so `import boxtune` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "BoxtuneError": "boxtune.errors",
    "Comparison": "boxtune.evaluation.compare",
    "Config": "boxtune.config.schema",
    "DecodeResult": "boxtune.grounding.codec",
    "Detections": "boxtune.detections",
    "Detector": "boxtune.inference.detector",
    "Family": "boxtune.models.families",
    "Metrics": "boxtune.evaluation.metrics",
    "RECIPES": "boxtune.config.recipes",
    "Recipe": "boxtune.config.recipes",
    "RecipeResult": "boxtune.training.recipes",
    "Sample": "boxtune.data.sample",
    "TrainResult": "boxtune.training.run",
    "compare_models": "boxtune.evaluation.compare",
    "compare_recipes": "boxtune.training.comparison",
    "convert_dataset": "boxtune.data.convert",
    "evaluate": "boxtune.evaluation.evaluate",
    "evaluate_model": "boxtune.evaluation.evaluate",
    "family": "boxtune.models.families",
    "load_config": "boxtune.config.load",
    "load_dataset": "boxtune.data.dataset",
    "load_detector": "boxtune.inference.detector",
    "print_evaluation_results": "boxtune.evaluation.summary",
    "run_recipe": "boxtune.training.recipes",
    "train": "boxtune.training.recipes",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'boxtune' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
