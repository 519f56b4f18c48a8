"""Rules that concern more than one key, all in one place, checked before any model or data is loaded."""

from __future__ import annotations

from boxtune.config.recipes import stage_configs
from boxtune.config.schema import Config
from boxtune.errors import ConfigError, nearest

# Named elsewhere in the tree, or fixed by what the trainer is: refused so that one setting has one place.
_ELSEWHERE = {
    "output_dir": "output_dir",
    "logging_steps": "logging.steps",
    "report_to": "logging.tensorboard and logging.wandb",
    "bf16": "model.dtype",
    "fp16": "model.dtype (bfloat16)",
    "use_cpu": "model.device=cpu",
    "dataloader_num_workers": "data.num_workers",
    "warmup_steps": "trainer.warmup_fraction",
    "warmup_ratio": "trainer.warmup_fraction",
    "lr_scheduler_type": "trainer.schedule",
    "remove_unused_columns": "nothing: the collator needs every column",
    "eval_strategy": "evaluation.every",
    "eval_steps": "evaluation.every",
    "eval_delay": "evaluation.every",
    "eval_on_start": "evaluation.every",
    "do_eval": "evaluation.at_end",
    "per_device_eval_batch_size": "evaluation.batch_size",
    "load_best_model_at_end": "evaluation.keep_best",
    "metric_for_best_model": "evaluation.keep_best (it goes by AP)",
    "greater_is_better": "evaluation.keep_best (it goes by AP)",
    "save_strategy": "trainer.save_steps",
    "save_only_model": "nothing: a checkpoint without optimizer cannot be resumed",
    "activation_checkpointing": "trainer.gradient_checkpointing",
    "activation_checkpointing_kwargs": "trainer.gradient_checkpointing (never reentrant)",
    "gradient_checkpointing_kwargs": "trainer.gradient_checkpointing (never reentrant)",
    "push_to_hub": "nothing: push the finished folder with huggingface_hub",
    "logging_strategy": "logging.steps",
    "data_seed": "trainer.seed",
    "group_by_length": "nothing: not supported",
}

SHARDING = ("deepspeed", "fsdp")
"""Names under `trainer:` that leave no process with the whole model."""


def check_config(config: Config) -> None:
    """Refuse combinations that cannot work.

    Raises:
        ConfigError: names both keys and the remedy.
    """
    check_names(config)
    trainer, model = config.trainer, config.model
    if config.recipe is None:
        check_areas(config)
    else:
        for stage_config in stage_configs(config):
            check_areas(stage_config)
    if config.data.path is None:
        raise ConfigError("No data: say --data FOLDER, or data.path in the configuration.")
    if trainer.minutes is not None and trainer.max_steps is not None:
        raise ConfigError("trainer.minutes and trainer.max_steps both end the run: give one of them.")
    smallest, largest = model.min_pixels, model.max_pixels
    if isinstance(smallest, int) and isinstance(largest, int) and smallest > largest:
        raise ConfigError(f"model.min_pixels={smallest} is more than model.max_pixels={largest}: swap them.")
    if config.collator.batching == "packed" and model.attention == "eager":
        raise ConfigError("collator.batching=packed needs model.attention=sdpa or flash_attention_2.")
    check_watching(config)


def check_watching(config: Config) -> None:
    """Refuse what is asked of the evaluations in the course of a run where there are none, or can be none.

    Raises:
        ConfigError: names both keys and the remedy.
    """
    asked, patience = config.evaluation, config.trainer.early_stopping_patience
    if asked.every == "none":
        chosen = {
            "evaluation.keep_best=true": asked.keep_best,
            f"trainer.early_stopping_patience={patience}": patience is not None,
            f"evaluation.watch_split={asked.watch_split}": asked.watch_split != "auto",
        }
        for setting, given in chosen.items():
            if given:
                raise ConfigError(
                    f"{setting} needs evaluations in the course of the run, and evaluation.every=none asks for none: "
                    "set evaluation.every=auto, or leave the other out."
                )
    for name in SHARDING:
        if config.trainer.passed_on.get(name) and config.must_watch:
            raise ConfigError(
                f"trainer.{name} spreads the weights over processes, where the model cannot be asked in the course of "
                "a run: set evaluation.every=none, without evaluation.keep_best and trainer.early_stopping_patience."
            )


def check_areas(config: Config) -> None:
    """Refuse what is asked of the areas where it cannot be trained or saved; also called with `auto` fitted.

    Raises:
        ConfigError: names both keys and the remedy.
    """
    areas = {area: getattr(config.adapter, area) for area in ("language", "vision", "merger")}
    if set(areas.values()) == {"frozen"}:
        raise ConfigError("adapter.language, .vision and .merger are all frozen: nothing would be trained.")
    low_rank, full = ([area for area, how in areas.items() if how == wanted] for wanted in ("lora", "full"))
    if full and config.model.quantize == "nf4":
        raise ConfigError(
            f"model.quantize=nf4 cannot be combined with adapter.{full[0]}=full: 4-bit weights are not trained, and a "
            f"model is saved whole or not at all. Set adapter.{full[0]}=lora or frozen, or model.quantize=none."
        )
    if low_rank and full:
        raise ConfigError(
            f"adapter.{low_rank[0]}=lora cannot be combined with adapter.{full[0]}=full: an adapter folder holds no "
            f"full weights. Set adapter.{full[0]}=lora or frozen, or train in two stages (recipe: r3-two-stage)."
        )


def check_names(config: Config) -> None:
    """Refuse names under `trainer:` that `transformers.TrainingArguments` does not know, or that have a place here.

    Raises:
        ConfigError: names the nearest known one, or the place.
    """
    names = config.trainer.passed_on
    if not names:
        return
    import dataclasses

    from transformers import TrainingArguments  # heavy, so only where somebody uses one of its names

    known = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    ours = set(type(config.trainer).model_fields)
    for name in names:
        if name in _ELSEWHERE:
            raise ConfigError(f"trainer.{name} has its own place here: use {_ELSEWHERE[name]}.")
        if name not in known:
            raise ConfigError(f"Unknown key 'trainer.{name}'. {nearest(name, (known - set(_ELSEWHERE)) | ours)}")
