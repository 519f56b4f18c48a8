"""transformers' Trainer with our batches, our losses and our schedule; nothing of it is copied or patched.

It is not TRL's SFTTrainer because that refuses packed image data and returns no logits (trl 1.16,
`trainer/sft_trainer.py`); the data sets and collators here run in a plain SFTTrainer too, see tests/canaries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer

from boxtune.collators.packing import PackedSampler
from boxtune.losses import language
from boxtune.models.compile import is_compile_error, release_blocks, uncompiled
from boxtune.models.frozen_vision import frozen_features
from boxtune.training.clock import RunClock
from boxtune.training.speed import Speed, slow_down
from boxtune.training.watch import Watch


class DetectionTrainer(Trainer):
    """One step: the model runs once, each loss is a sum over the step's targets divided by their number.

    The number is that of the whole step, over accumulated batches and all processes, so neither batching changes the
    optimum.
    """

    # read by Trainer.training_step: the losses below are already divided by the count of the whole step
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        clock: RunClock,
        rate_factor: Callable[[float], float],
        speed: Speed | None = None,
        packing: PackedSampler | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.clock = clock
        self.rate_factor = rate_factor
        self.speed = speed
        self.packing = packing
        self.watch: Watch | None = None
        self.say: Callable[[str], None] = lambda _: None
        self.waited_seconds = 0.0  # for data, since the last log
        self._logged_at = time.perf_counter()
        self._compiles = speed is not None and speed.compiled  # and no step has shown yet that it works
        self.add_callback(clock)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; afterwards the model is as it was but for its weights."""
        self._logged_at = time.perf_counter()
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.speed is not None:
                slow_down(self.model)

    def get_train_dataloader(self) -> Any:
        """Rows within a budget of tokens where there is one; a fixed number of images otherwise."""
        if self.packing is None:
            return super().get_train_dataloader()
        args = self.args
        return DataLoaderShard(  # what `Accelerator.prepare` makes; the sampler knows its process itself
            self.train_dataset,
            device=self.accelerator.device if self.accelerator.device_placement else None,
            batch_sampler=self.packing,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            _non_blocking=True,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The batches of one step, and how many labels they hold over all processes; none once the run is over."""
        if self.control.should_training_stop:  # resumed at its end: transformers would take one more step
            return [], torch.zeros((), device=device)
        began = time.perf_counter()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.waited_seconds += time.perf_counter() - began
        count = torch.tensor(sum(int(language.count(batch["targets"])) for batch in batches), device=device)
        return batches, self.accelerator.gather(count).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of one batch, as its share of the whole step's."""
        targets, forward = inputs["targets"], inputs["inputs"]
        if self.speed is not None and self.speed.frozen_vision and "pixel_values" in forward:
            with self.accelerator.autocast():
                forward = frozen_features(self.model, forward)
        options = language.forward_options(targets) if self.speed is None or self.speed.label_logits else {}
        outputs = model(**forward, **options, use_cache=False)
        # gradients are averaged over processes, the count is a sum over them
        count = num_items_in_batch if num_items_in_batch is not None else language.count(targets)
        loss = language.total(outputs.logits, targets) / count * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """As `Trainer.training_step`; where the blocks do not compile, the first step is done again without."""
        if not self._compiles:
            return super().training_step(model, inputs, num_items_in_batch)
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except Exception as error:
            if not is_compile_error(error):
                raise
            release_blocks(self.model)
            reason = str(error).strip().split("\n")[0]
            self.say(f"Blocks run uncompiled: compiling them failed ({type(error).__name__}: {reason[:200]}).")
            model.zero_grad()  # of a backward pass that came halfway
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._compiles = False
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with the share of the time since the last one that was spent waiting for data."""
        if "loss" in logs:
            now = time.perf_counter()
            logs["waiting"] = round(self.waited_seconds / max(now - self._logged_at, 1e-9), 4)
            self.waited_seconds, self._logged_at = 0.0, now
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The watched images, which the first process looks at while the clock of all stands still.

        Callbacks hear of it by `on_evaluate`, as of any evaluation of transformers; saving comes after it.
        """
        if self.watch is None:
            return super().evaluate(*args, **kwargs)
        with self.clock.standing_still(), uncompiled():
            looked = [self.watch.look(self.model) if self.is_world_process_zero() else {}]
            figures: dict[str, float] = broadcast_object_list(looked)[0]
        self.log(dict(figures))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def take_weights(self, checkpoint: Path) -> None:
        """Put the weights of a checkpoint into the model; optimizer and schedule stay as they are."""
        self._load_from_checkpoint(str(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The weights of a checkpoint, every one of them.

        `Trainer._load_from_checkpoint` of transformers 5.23 hands the file to `load_state_dict(strict=False)`, but
        `save_pretrained` writes the names that older releases had (`visual.…` for `model.visual.…`): nothing fits,
        nothing is said at error level, and the run would go on with the base model's weights.
        """
        model = self.model if model is None else model
        if not isinstance(model, PreTrainedModel):  # adapters keep their names
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(model).from_pretrained(resume_from_checkpoint, dtype=torch.float32, use_safetensors=True)
        model.load_state_dict(saved.state_dict())

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The rate follows the run's clock, which counts steps or time."""
        if self.lr_scheduler is None:
            optimizer = optimizer if optimizer is not None else self.optimizer
            self.lr_scheduler = LambdaLR(
                optimizer,
                lambda step: self.rate_factor(self.clock.progress(step, num_training_steps)),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler
