"""Rules that concern more than one key, all in one place, checked before any model or data is loaded."""

from __future__ import annotations

from boxtune.config.engines import asked_by, check_engine, engine_of
from boxtune.config.groups import check_groups
from boxtune.config.load import flatten, nearest_key
from boxtune.config.recipes import stage_configs
from boxtune.config.schema import Config
from boxtune.errors import ConfigError

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
    "push_to_hub": "nothing: push the finished folder by boxtune push",
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
        raise ConfigError("collator.batching=packed does not go with model.attention=eager: leave one of them out.")
    if config.collator.batching == "padded" and isinstance(config.collator.token_budget, int):
        raise ConfigError(
            f"collator.token_budget={config.collator.token_budget} is what a packed row holds, and "
            "collator.batching=padded packs none: leave one of them out."
        )
    against = {"small": False, "fast": True}.get(model.memory)
    if against is not None and trainer.gradient_checkpointing is against:
        raise ConfigError(
            f"model.memory={model.memory} and trainer.gradient_checkpointing={str(against).lower()} ask for opposite "
            "things: leave one of them out."
        )
    check_watching(config)
    check_engine(config)
    check_head(config)
    check_examples(config)
    check_rates(config)


def check_head(config: Config) -> None:
    """Refuse settings of a detection head where there is none, and what a head cannot be trained with.

    Raises:
        ConfigError: names the key and the remedy.
    """
    if config.model.detection_head:
        return
    section = config.detection_head
    plain = dict(flatten(type(section)().model_dump()))
    for key, value in flatten(section.model_dump()):
        if value != plain[key]:
            raise ConfigError(
                f"detection_head.{key}={value} does nothing without a head: set model.detection_head=true, or leave "
                "it out."
            )
    if config.evaluation.decoder in ("head", "both"):
        raise ConfigError(
            f"evaluation.decoder={config.evaluation.decoder} asks a detection head, and none is trained: set "
            "model.detection_head=true, or evaluation.decoder=text."
        )


def check_examples(config: Config) -> None:
    """Refuse weights of the two parts of the language loss where there are no worked examples.

    Raises:
        ConfigError: names the key and the remedy.
    """
    if config.data.examples:
        return
    plain = type(config.losses)().model_dump()
    for name, value in config.losses.model_dump().items():
        if value != plain[name]:
            raise ConfigError(
                f"losses.{name}={value} does nothing without worked examples: set data.examples=1 or more, or leave it "
                "out."
            )


def check_rates(config: Config) -> None:
    """Refuse rates and phases that contradict each other, or the length of the run.

    Raises:
        ConfigError: names the key and the remedy.
    """
    trainer = config.trainer
    if trainer.rate_scaling != "sqrt" and trainer.rate_for_batch is None:
        raise ConfigError(
            f"trainer.rate_scaling={trainer.rate_scaling} does nothing without trainer.rate_for_batch: say for how "
            "many images a step the rates are meant, or leave it out."
        )
    if config.recipe is not None and trainer.phases and len(stage_configs(config)) > 1:
        raise ConfigError(
            f"trainer.phases are parts of one run, and recipe={config.recipe} makes several: train its stages one by "
            "one (see `boxtune recipes`)."
        )
    ends = [_end_of_phase(config, number) for number in range(len(trainer.phases))]
    if ends and (sorted(set(ends)) != ends or ends[-1] != 1):
        raise ConfigError(
            f"trainer.phases end at {', '.join(f'{end:g}' for end in ends)} of the run: each must end after the one "
            "before, and the last at 1."
        )


def _end_of_phase(config: Config, number: int) -> float:
    phase, trainer = config.trainer.phases[number], config.trainer
    if (phase.until is None) == (phase.until_epoch is None):
        raise ConfigError(f"trainer.phases[{number}] must say where it ends: give until (0 to 1) or until_epoch.")
    if phase.until_epoch is None:
        assert phase.until is not None
        return phase.until
    by_epochs = trainer.minutes is None and trainer.max_steps is None
    if not by_epochs or trainer.num_train_epochs == "auto":
        raise ConfigError(
            f"trainer.phases[{number}].until_epoch={phase.until_epoch:g} needs a run of so many epochs: set "
            "trainer.num_train_epochs, without minutes and max_steps, or give until, a share of the run."
        )
    return phase.until_epoch / trainer.num_train_epochs


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


def check_areas(config: Config) -> None:
    """Refuse what is asked of the areas where it cannot be trained or saved; also called with `auto` fitted.

    Raises:
        ConfigError: names both keys and the remedy.
    """
    check_groups(config)
    areas = {area: getattr(config.adapter, area) for area in ("language", "vision", "merger")}
    if set(areas.values()) == {"frozen"} and not config.model.detection_head:
        raise ConfigError(
            "adapter.language, .vision and .merger are all frozen: nothing would be trained. Open one of them, or "
            "train a detection head beside them (model.detection_head=true)."
        )
    if set(areas.values()) == {"frozen"} and config.model.quantize == "nf4":
        raise ConfigError(
            "model.quantize=nf4 cannot be combined with areas that are all frozen: a model without an adapter is saved "
            "whole, and not in 4 bits. Set adapter.language=lora, or model.quantize=none."
        )
    check_vision_cache(config)
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


def check_vision_cache(config: Config) -> None:
    """Refuse a vision cache that is asked for where features change in the course of the run.

    Raises:
        ConfigError: names both keys and the remedy.
    """
    cache = config.model.vision_cache
    if cache not in ("auto", "none") and (obstacle := obstacle_to_vision_cache(config)):
        raise ConfigError(
            f"model.vision_cache={cache} keeps what the vision tower says of a picture, but {obstacle[1]}: set "
            f"model.vision_cache=none, or {obstacle[0]}."
        )


def obstacle_to_vision_cache(config: Config) -> tuple[str, str] | None:
    """Why features would not be the same at every look, and the setting that removes the reason; None: they are.

    What is `auto` is no obstacle before it is fitted.
    """
    for area, name in (("vision", "vision tower"), ("merger", "merger behind it")):
        if (how := getattr(config.adapter, area)) not in ("auto", "frozen"):
            return f"adapter.{area}=frozen", f"adapter.{area}={how} trains the {name}"
    if config.data.augment not in ("auto", "none"):
        return "data.augment=none", f"data.augment={config.data.augment} changes each picture at every look"
    if config.data.flip:
        return "data.flip=[]", f"data.flip=[{','.join(config.data.flip)}] mirrors pictures at random"
    if config.data.examples:
        return "data.examples=0", f"data.examples={config.data.examples} shows several pictures together"
    if engine_of(config) != "ddp":
        return "train without it", f"{asked_by(config)} leaves no process with the whole tower"
    return None


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
    for name in names:
        if name in _ELSEWHERE:
            raise ConfigError(f"trainer.{name} has its own place here: use {_ELSEWHERE[name]}.")
        if name not in known:
            hint = nearest_key(name, type(config.trainer).model_fields, "trainer.", known - set(_ELSEWHERE))
            raise ConfigError(f"Unknown key 'trainer.{name}'. {hint}")
