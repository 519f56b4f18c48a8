"""The output folder of a run: claimed for a new one, or taken up where it was left."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from boxtune import processes
from boxtune.config.load import flatten, load_config
from boxtune.config.schema import Config
from boxtune.errors import ConfigError, DataError, SaveError
from boxtune.models.contract import FILE_NAME as CONTRACT_FILE
from boxtune.training.aside import discard_unfinished
from boxtune.training.callbacks.checkpoints import CONFIG_FILE, RUN_FILE, last_checkpoint
from boxtune.training.damage import check_whole

# What may change between two sittings. Anything else lies in the checkpoint already, or would give other losses.
_FREE_SECTIONS = ("evaluation", "logging")
# These say which images are kept from training to be watched.
_FIXED_KEYS = frozenset({"evaluation.watch_images", "evaluation.watch_split", "evaluation.keep_best"})
_STEP_KEYS = ("trainer.per_device_train_batch_size", "trainer.gradient_accumulation_steps")  # see `check_processes`
_LENGTH_KEYS = ("trainer.minutes", "trainer.max_steps", "trainer.num_train_epochs")
_FREE_KEYS = frozenset(
    {
        "output_dir",
        "model.device",
        "model.attention",  # these change how fast the same numbers come
        "model.speedups",
        "model.memory",
        "model.vision_cache",
        "model.vision_cache_gb",
        "data.path",  # a folder may be moved: its content is compared
        "data.format",
        "data.num_workers",
        *_LENGTH_KEYS,
        "trainer.save_steps",
        "trainer.save_total_limit",
        "trainer.gradient_checkpointing",  # these two change how much memory the same numbers take
        "trainer.oom",
    }
)


def claim_output_dir(output_dir: Path, resume: bool) -> Path | None:
    """Make the output folder ready; returns the checkpoint to go on from.

    None, though it is a resumed run, where that was ended before its first checkpoint: it begins again.

    Raises:
        ConfigError: something is in it and the run is no resumed one, or there is nothing to resume, or it is damaged.
        SaveError: it cannot be made.
    """
    checkpoint = last_checkpoint(output_dir)
    if not processes.is_first():  # the first one asks, and may have begun to write
        return checkpoint if resume else None
    if resume and checkpoint is None and not (output_dir / RUN_FILE).is_file():
        raise ConfigError(
            f"Nothing to resume: {output_dir} holds no whole checkpoint. Start without --resume, in a new folder."
        )
    if resume and checkpoint is not None:
        check_whole(checkpoint)
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"{output_dir} is a file: choose another --output-dir.")
    try:
        if not resume and output_dir.exists() and any(output_dir.iterdir()):
            begun = checkpoint is not None or (output_dir / RUN_FILE).is_file()
            go_on = ", or go on with the run in it by --resume" if begun else ", nothing is written over"
            raise ConfigError(f"{output_dir} is not empty: choose another --output-dir{go_on}.")
        output_dir.mkdir(parents=True, exist_ok=True)
        discard_unfinished(output_dir)
    except OSError as error:
        raise SaveError(f"{output_dir} cannot be made: {error.strerror}. Choose another --output-dir.") from None
    return checkpoint


def check_settings(
    saved: Path, config: Config, run: Path, free: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Refuse other settings than those saved in a folder; returns both, flat. `auto` agrees with what was fitted.

    Raises:
        ConfigError: names the setting and both values.
    """
    before = dict(flatten(load_config(saved / CONFIG_FILE).model_dump()))
    now = dict(flatten(config.model_dump()))
    for key in sorted(before.keys() | now.keys()):
        if _is_free(key) or key in free or now.get(key) in (before.get(key), "auto"):
            continue
        raise ConfigError(
            f"{key} is {now.get(key)}, but the run in {run} was made with {before.get(key)}: "
            "leave it as it was, or start a new run in another --output-dir."
        )
    return before, now


def _is_free(key: str) -> bool:
    if key.startswith(("trainer.fsdp", "trainer.deepspeed")):  # see `check_processes`
        return True
    if key.startswith("trainer.stability."):  # says what to do where numbers are lost anyhow
        return True
    return key in _FREE_KEYS or (key.split(".")[0] in _FREE_SECTIONS and key not in _FIXED_KEYS)


def check_unchanged(checkpoint: Path, config: Config, record: dict[str, Any]) -> None:
    """Refuse to go on with other settings or other data than the checkpoint was made with.

    Raises:
        ConfigError: names the setting and both values.
        DataError: the data set holds something else now.
    """
    before, now = check_settings(checkpoint, config, checkpoint.parent, free=_STEP_KEYS)
    made = json.loads((checkpoint / RUN_FILE).read_text(encoding="utf-8"))
    check_processes(checkpoint.parent, before, now, made, record)
    _check_stage(checkpoint.parent, made.get("stage"), record.get("stage"))
    if made["data"]["fingerprint"] != record["data"]["fingerprint"]:
        raise DataError(
            f"The training data is not what {checkpoint} was trained on (other images, boxes or labels): bring the old "
            "data back, or start a new run in another --output-dir."
        )
    finished = (checkpoint.parent / CONTRACT_FILE).is_file()  # written at the end of a run, beside its weights
    if finished and not any(_is_longer(before.get(key), now.get(key)) for key in _LENGTH_KEYS):
        run = checkpoint.parent
        further = f"train its result in a new folder with --model {run}"
        if (run / "adapter_config.json").is_file():
            further = f"merge it (boxtune merge --adapter {run} --output-dir NEW) and train the result with --model NEW"
        raise ConfigError(
            f"The run in {run} is finished: raise {' or '.join(_LENGTH_KEYS)} to go on with it, or {further}."
        )


def check_processes(
    run: Path, before: dict[str, Any], now: dict[str, Any], made: dict[str, Any], record: dict[str, Any]
) -> None:
    """A step must be of as many images (packed: rows) as before, in however many processes.

    Args:
        run: its folder, for messages.
        before, now: settings, flat.
        made, record: `run.json` of the checkpoint and of this sitting.

    Raises:
        ConfigError: says what would make it so; DeepSpeed's files are for as many processes as have written them.
    """
    engines = [one.get("engine", "ddp") for one in (made, record)]
    counts = [one.get("num_processes", 1) for one in (made, record)]
    if "deepspeed" in engines and (engines[0] != engines[1] or counts[0] != counts[1]):
        raise ConfigError(
            f"The run in {run} was made by {engines[0]} in {counts[0]} processes, and would go on by {engines[1]} in "
            f"{counts[1]}: a checkpoint of DeepSpeed goes on under DeepSpeed, in as many processes as have written it."
        )
    batch, accumulation = _STEP_KEYS
    sizes = [count * of[accumulation] * of[batch] for count, of in zip(counts, (before, now), strict=True)]
    packed = now.get("collator.token_budget") is not None  # how many images a row has is not in our hands then
    if sizes[0] == sizes[1] and (now[batch] == before[batch] or not packed):
        return
    each, rest = divmod(sizes[0], counts[1])
    if not rest and each % before[batch] == 0:
        wanted = {accumulation: each // before[batch], batch: before[batch]}
        remedy = "set " + " and ".join(f"{key}={value}" for key, value in wanted.items() if now[key] != value)
    elif not rest and not packed:
        remedy = f"set {accumulation}=1 and {batch}={each}"
    else:
        whole = counts[0] * before[accumulation] if packed else sizes[0]
        remedy = f"go on in a number of processes that divides {whole}"
    raise ConfigError(
        f"A step of the run in {run} is {_step(counts[0], before)}, and would now be {_step(counts[1], now)}: "
        f"{remedy}, so that the losses stay those of one run."
    )


def _is_longer(before: float | None, now: float | None) -> bool:
    """Whether a length may leave something to do: one that is given or taken away ends a run by another clock."""
    return now != before and (before is None or now is None or now > before)


def _step(count: int, settings: dict[str, Any]) -> str:
    batch, accumulation = (settings[key] for key in _STEP_KEYS)
    return f"{count} processes × batch {batch} × accumulation {accumulation}"


def _check_stage(run: Path, before: dict[str, Any] | None, now: dict[str, Any] | None) -> None:
    if before is not None and now is None:
        raise ConfigError(
            f"{run} is stage {before['number']} of a run of {before['recipe']}: go on with the whole run by "
            f"boxtune train --resume --output-dir {run.parent}."
        )
    if before != now:
        raise ConfigError(
            f"{run} was trained on another result of the stage before, or is no stage of this run: put it back, "
            "or start again in another --output-dir."
        )
