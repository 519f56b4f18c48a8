"""Rules that concern more than one key, all in one place, checked before any model or data is loaded."""

from __future__ import annotations

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
    "eval_strategy": "evaluation.at_end",
    "do_eval": "evaluation.at_end",
    "save_strategy": "trainer.save_steps",
    "save_only_model": "nothing: a checkpoint without optimizer cannot be resumed",
    "push_to_hub": "nothing: push the finished folder with huggingface_hub",
    "logging_strategy": "logging.steps",
    "data_seed": "trainer.seed",
    "group_by_length": "nothing: not supported",
}


def check_config(config: Config) -> None:
    """Refuse combinations that cannot work.

    Raises:
        ConfigError: names both keys and the remedy.
    """
    check_names(config)
    adapter, trainer, model = config.adapter, config.trainer, config.model
    if config.data.path is None:
        raise ConfigError("No data: say --data FOLDER, or data.path in the configuration.")
    if trainer.minutes is not None and trainer.max_steps is not None:
        raise ConfigError("trainer.minutes and trainer.max_steps both end the run: give one of them.")
    if adapter.language == adapter.vision == adapter.merger == "frozen":
        raise ConfigError("adapter.language, .vision and .merger are all frozen: nothing would be trained.")
    if adapter.language == "lora" and "full" in (adapter.vision, adapter.merger):
        raise ConfigError(
            "adapter.language=lora cannot be combined with adapter.vision=full or adapter.merger=full yet: "
            "an adapter folder holds no full weights. Set adapter.language=full, or freeze the vision areas."
        )
    smallest, largest = model.min_pixels, model.max_pixels
    if isinstance(smallest, int) and isinstance(largest, int) and smallest > largest:
        raise ConfigError(f"model.min_pixels={smallest} is more than model.max_pixels={largest}: swap them.")
    if config.collator.batching == "packed" and model.attention == "eager":
        raise ConfigError("collator.batching=packed needs model.attention=sdpa or flash_attention_2.")


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
