"""What transformers' Trainer is told of a configuration."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

from boxtune.config.schema import Config
from boxtune.inference.detector import pick_device
from boxtune.training import auto


def training_arguments(config: Config) -> TrainingArguments:
    """The arguments of a run whose settings are fitted.

    Gradient checkpointing is none of them: see `boxtune.models.areas.recompute_activations`.
    """
    settings, device = config.trainer, pick_device(config.model.device)
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
        **_of_loading(device.type == "cuda") | settings.passed_on,
    )
    if made.n_gpu > 1:
        made._n_gpu = 1  # nn.DataParallel cannot divide our batches: several GPUs take a process each
    return made


def _of_loading(on_gpu: bool) -> dict[str, Any]:
    """Batches are copied to a GPU while it computes."""
    return {"dataloader_pin_memory": on_gpu, "accelerator_config": {"non_blocking": on_gpu}}
