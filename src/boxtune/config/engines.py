"""Who spreads a run over its processes: each has the whole model (DDP), or the weights are divided among them.

An engine is asked for in the configuration (`trainer.fsdp=true`, `trainer.deepspeed=FILE`) or by `accelerate launch`,
which says so in the environment (accelerate's `utils/launch.py`).
"""

from __future__ import annotations

import os
from typing import Literal

from boxtune.config.schema import Config

Engine = Literal["ddp", "fsdp", "deepspeed"]

WHOLE_WEIGHTS = ("frozen_vision", "padded_vision")
"""Speedups that look at weights outside of the model's own forward pass, where those that are divided are not whole."""

_ENVIRONMENT: dict[Engine, str] = {"fsdp": "ACCELERATE_USE_FSDP", "deepspeed": "ACCELERATE_USE_DEEPSPEED"}


def engine_of(config: Config) -> Engine:
    """The engine of a run; `ddp` also where there is one process."""
    for engine, variable in _ENVIRONMENT.items():
        if config.trainer.passed_on.get(engine) or os.environ.get(variable, "false").lower() in ("true", "1"):
            return engine
    return "ddp"


def asked_by(config: Config) -> str:
    """Where the engine was asked for, for messages: `trainer.fsdp`, or the launcher's variable."""
    engine = engine_of(config)
    return f"trainer.{engine}" if config.trainer.passed_on.get(engine) else f"{_ENVIRONMENT[engine]}=true"
