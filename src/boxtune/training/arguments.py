"""What transformers' Trainer is told of a configuration."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from transformers import TrainingArguments

from boxtune import processes
from boxtune.config.engines import asked_by, engine_of
from boxtune.config.schema import Config
from boxtune.errors import ConfigError
from boxtune.models.devices import pick_device
from boxtune.training import auto


def check_device(device: torch.device) -> None:
    """Refuse a GPU that a training would not run on.

    `TrainingArguments._setup_devices` of transformers 5.23 takes `cuda:0` in a run of one process, and the GPU of
    `LOCAL_RANK` in one of several, whatever device the model is on.

    Raises:
        ConfigError: names the remedy.
    """
    own = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type != "cuda" or device.index in (None, own):
        return
    if "LOCAL_RANK" in os.environ:
        remedy = "set model.device=cuda, and each process takes its own"
    else:
        names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        name = names[device.index].strip() if device.index < len(names) else device.index
        remedy = f"set CUDA_VISIBLE_DEVICES={name} and model.device=cuda"
    raise ConfigError(f"model.device={device}: a training here runs on cuda:{own}; {remedy}.")


def check_engine_here(config: Config) -> None:
    """Refuse an engine that cannot run in this process.

    Raises:
        ConfigError: names the remedy.
    """
    engine = engine_of(config)
    if engine == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"{asked_by(config)}, and DeepSpeed is not installed: pip install deepspeed, or leave it out."
        )
    if engine != "ddp" and processes.count() == 1:
        raise ConfigError(
            f"{asked_by(config)} divides a run among processes, and this is the only one: start several, torchrun "
            "--nproc_per_node 2 -m boxtune train …, or leave it out."
        )


def check_oom(config: Config) -> None:
    """Refuse to do a step again where others would wait for its end.

    Raises:
        ConfigError: names the remedy.
    """
    if config.trainer.oom == "retry" and (processes.count() > 1 or engine_of(config) != "ddp"):
        raise ConfigError(
            "trainer.oom=retry is for one process, since others would wait for the batch that did not fit: leave it "
            "out, and lower collator.token_budget or trainer.per_device_train_batch_size where memory runs out."
        )


def training_arguments(config: Config) -> TrainingArguments:
    """The arguments of a run whose settings are fitted.

    Gradient checkpointing is none of them: see `boxtune.models.areas.recompute_activations`.
    """
    settings, device = config.trainer, pick_device(config.model.device)
    if not torch.cuda.is_available():  # else DeepSpeed, which accelerate imports wherever it is installed, warns of it
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    loggers = [name for name, wanted in config.logging.model_dump().items() if wanted is True]
    steps = settings.max_steps or -1
    timed = settings.minutes is not None
    made = TrainingArguments(
        output_dir=config.output_dir,
        max_steps=10**7 if timed else steps,  # with a budget of time the clock ends the run
        num_train_epochs=1 if timed else float(settings.num_train_epochs),
        per_device_train_batch_size=int(settings.per_device_train_batch_size),
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=float(settings.learning_rate),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        save_strategy="no" if settings.save_steps == "auto" else "steps",
        save_steps=500 if settings.save_steps == "auto" else settings.save_steps,
        seed=settings.seed,
        bf16=auto.use_bf16(config, device),
        use_cpu=device.type == "cpu",
        logging_steps=5 if config.logging.steps == "auto" else config.logging.steps,
        report_to=loggers,
        eval_strategy="no",
        logging_nan_inf_filter=False,  # a loss that is no number is told, not replaced
        dataloader_num_workers=int(config.data.num_workers),
        remove_unused_columns=False,
        disable_tqdm=True,
        **_OF_PROCESSES | _of_loading(config, device.type == "cuda") | settings.passed_on,
    )
    if made.n_gpu > 1:
        made._n_gpu = 1  # nn.DataParallel cannot divide our batches: several GPUs take a process each
    return made


# Looking for parameters without a gradient costs time at every step, passes over a head, which is no part of the
# model's forward, and finds none: the first step is looked at (callbacks/audit.py).
# By default all but the first process would be louder than the first, which speaks as loudly as it was told to.
_OF_PROCESSES: dict[str, Any] = {"ddp_find_unused_parameters": False, "log_level_replica": "passive"}


def _of_loading(config: Config, on_gpu: bool) -> dict[str, Any]:
    """Batches are copied to a GPU while it computes. Readers live as long as the run: eight new ones at each epoch make
    an H200 wait for a second, since a process that uses a GPU takes long to copy.
    """
    return {
        "dataloader_pin_memory": on_gpu,
        "dataloader_persistent_workers": int(config.data.num_workers) > 0,
        "accelerator_config": {"non_blocking": on_gpu},
    }
