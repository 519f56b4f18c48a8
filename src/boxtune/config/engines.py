"""Who spreads a run over its processes: each has the whole model (DDP), or the weights are divided among them.

An engine is asked for in the configuration (`trainer.fsdp=true`, `trainer.deepspeed=FILE`) or by `accelerate launch`,
which says so in the environment (accelerate's `utils/launch.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from boxtune.config.schema import Config
from boxtune.errors import ConfigError

Engine = Literal["ddp", "fsdp", "deepspeed"]

_ENVIRONMENT: dict[Engine, str] = {"fsdp": "ACCELERATE_USE_FSDP", "deepspeed": "ACCELERATE_USE_DEEPSPEED"}


def engine_of(config: Config) -> Engine:
    """The engine of a run; `ddp` also where there is one process."""
    for engine, variable in _ENVIRONMENT.items():
        if config.trainer.passed_on.get(engine) or os.environ.get(variable, "false").lower() in ("true", "1"):
            return engine
    return "ddp"


def left_out(engine: Engine) -> tuple[str, ...]:
    """Speedups that an engine does not go with.

    Some look at weights outside of the model's own forward pass, where those that are divided are not whole. And what
    DeepSpeed does before and after each module is compiled for each module anew, until the compiler gives up.
    """
    if engine == "ddp":
        return ()
    whole = ("frozen_vision", "padded_vision", "joined_adapters")
    return whole if engine == "fsdp" else (*whole, "compiled_blocks")


@contextmanager
def own_environment() -> Iterator[None]:
    """Behind the `with` the environment says of engines what it said before; accelerate writes there what it was told,
    and the next run of this process would take it for the launcher's wish.
    """
    before = {variable: os.environ.get(variable) for variable in _ENVIRONMENT.values()}
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value


def asked_by(config: Config) -> str:
    """Where the engine was asked for, for messages: `trainer.fsdp`, or the launcher's variable."""
    engine = engine_of(config)
    return f"trainer.{engine}" if config.trainer.passed_on.get(engine) else f"{_ENVIRONMENT[engine]}=true"


def zero_stage(config: Config) -> int:
    """What DeepSpeed divides: 1 the optimizer's state, 2 gradients too, 3 weights too; 0 where it is not asked for.

    Raises:
        ConfigError: its file cannot be read.
    """
    if engine_of(config) != "deepspeed":
        return 0
    told: Any = config.trainer.passed_on.get("deepspeed") or os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if not isinstance(told, dict | None) and told != "none":
        try:
            told = json.loads(Path(told).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"DeepSpeed's settings in {told} cannot be read: {error}. Check the path.") from None
    if isinstance(told, dict):
        return int(told.get("zero_optimization", {}).get("stage", 0))
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))


def check_engine(config: Config) -> None:
    """Refuse what cannot be done with weights, or gradients, that are divided among processes.

    Raises:
        ConfigError: names both keys and the remedy.
    """
    engine = engine_of(config)
    if engine == "ddp":
        return
    who = asked_by(config)
    if config.must_watch:
        raise ConfigError(
            f"{who} spreads the weights over processes, where the model cannot be asked in the course of a run: set "
            "evaluation.every=none, without evaluation.keep_best and trainer.early_stopping_patience."
        )
    wanted = [name for name in left_out(engine) if name in config.model.speedups]
    if wanted and config.model.speedups != "auto":
        raise ConfigError(
            f"model.speedups={wanted[0]} cannot be combined with {who}, by which weights come and go within a step: "
            "leave it out."
        )
    if engine == "deepspeed":
        _check_deepspeed(config, who)


def _check_deepspeed(config: Config, who: str) -> None:
    stage = zero_stage(config)
    for wanted, what in ((config.model.detection_head, "detection_head"), (config.model.quantize == "nf4", "quantize")):
        if wanted and stage == 3:
            raise ConfigError(
                f"model.{what} cannot be combined with ZeRO-3 ({who}), which divides every weight: use ZeRO-2 or "
                "trainer.fsdp=true instead."
            )
    if config.trainer.phases:
        raise ConfigError(
            f"trainer.phases cannot be combined with {who}: DeepSpeed takes its step before the gradients of a resting "
            "group could be dropped. Leave one of the two out, or use trainer.fsdp=true."
        )
    if config.trainer.stability.snapshot_steps not in ("auto", None):
        raise ConfigError(
            f"trainer.stability.snapshot_steps cannot be combined with {who}: DeepSpeed takes its step before a fault "
            "is seen, and keeps weights of its own. Leave one of the two out, or use trainer.fsdp=true."
        )
