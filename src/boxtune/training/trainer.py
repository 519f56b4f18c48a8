"""transformers' Trainer with our batches, our losses and our schedule; nothing of it is copied or patched.

It is not TRL's SFTTrainer because that refuses packed image data and returns no logits (trl 1.16,
`trainer/sft_trainer.py`); the data sets and collators here run in a plain SFTTrainer too, see tests/canaries.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel
from transformers.trainer_utils import seed_worker

from boxtune.collators.packing import PackedSampler
from boxtune.collators.shuffling import ShuffledSampler
from boxtune.losses import language
from boxtune.models.compile import is_compile_error, release_blocks, uncompiled
from boxtune.models.detection_head.attached import detached, split_state
from boxtune.models.detection_head.saving import load_head, save_head
from boxtune.models.frozen_vision import frozen_features
from boxtune.training import sharding
from boxtune.training.anomaly import naming_operations
from boxtune.training.callbacks.epochs import EpochCallback
from boxtune.training.callbacks.interrupt import InterruptCallback, LookEnded
from boxtune.training.callbacks.parts import PartsCallback, release_memory
from boxtune.training.callbacks.unlogged import UnloggedCallback
from boxtune.training.clock import RunClock
from boxtune.training.divided import DividedTrainer
from boxtune.training.durable import DurableTrainer
from boxtune.training.failures import is_out_of_memory
from boxtune.training.features import RunFeatures
from boxtune.training.objective import Objective, TermMeans
from boxtune.training.rates import Rates
from boxtune.training.readers import RunLoader, reader_init, stop_readers
from boxtune.training.speed import Speed, slow_down
from boxtune.training.stability import Stability
from boxtune.training.watch import Watch


class DetectionTrainer(DurableTrainer, DividedTrainer):
    """One step: the model runs once, each term of the loss is a sum over the step's targets divided by their number.

    The number is that of the whole step, over accumulated batches and all processes, so neither batching changes the
    optimum. Which terms there are is the objective's business.
    """

    # read by Trainer.training_step: the losses below are already divided by the count of the whole step
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        clock: RunClock,
        rates: Rates,
        stability: Stability | None = None,
        speed: Speed | None = None,
        packing: PackedSampler | None = None,
        objective: Objective | None = None,
        kept_features: RunFeatures | None = None,
        interrupt: InterruptCallback | None = None,
        parts: PartsCallback | None = None,
        head_alone: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, interrupt=interrupt, **kwargs)
        self.head_alone = head_alone
        self.clock = clock
        self.objective: Objective = objective or Objective()
        self.terms = TermMeans()
        self.rates, self.stability = rates, stability
        self.speed = speed
        self.packing = packing
        self.kept_features = kept_features
        self.watch: Watch | None = None
        self.say: Callable[[str], None] = lambda _: None
        self.parts = parts or PartsCallback()
        self._step_in_hand: list[Any] = []  # its batches so far
        self.waited_seconds = 0.0  # for data, since the last log
        self._logged_at = time.perf_counter()
        self._compiles = speed is not None and bool(speed.compiled)  # and no step has shown yet that it works
        self.add_callback(clock)
        self.add_callback(EpochCallback(self.train_dataset))
        self.add_callback(UnloggedCallback(self))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; afterwards the model is as it was but for its weights."""
        self._logged_at = time.perf_counter()
        try:
            output = super().train(*args, **kwargs)
        finally:
            stop_readers(self.callback_handler.train_dataloader)
            self.callback_handler.train_dataloader = None
            if self.kept_features is not None:
                self.kept_features.close()
            self.rates.phases.release()
            if self.stability is not None:
                self.stability.release()
            if self.speed is not None:
                slow_down(self.model)
        if self.kept_features is not None:
            self.say(self.kept_features.report(self._sum_over_processes))
        return output

    def get_train_dataloader(self) -> Any:
        """Rows within a budget of tokens where there is one; a fixed number of images otherwise."""
        args, samples = self.args, self.train_dataset
        assert isinstance(samples, Sized)
        batches: Any = self.packing or ShuffledSampler(
            len(samples),
            args.train_batch_size,
            args.seed,
            rank=args.process_index,
            num_processes=args.world_size,
        )
        seeded = partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index)
        return RunLoader(
            samples,
            batches,
            device=self.accelerator.device if self.accelerator.device_placement else None,
            goes_on=lambda: self.state.global_step + 1 < self.state.max_steps,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers and args.dataloader_num_workers > 0,
            # it draws a seed for its readers each time they are started, and a run that was resumed starts them anew:
            # the model's own draws must not hang on that
            generator=torch.Generator().manual_seed(args.seed),
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=reader_init(seeded),
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The batches of one step, and each term's count over them on all processes; none once the run is over."""
        if self.control.should_training_stop:  # resumed at its end: transformers would take one more step
            return [], {}
        began = time.perf_counter()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.waited_seconds += time.perf_counter() - began
        self.terms.begin_step()
        self._step_in_hand = []
        return batches, self._step_counts([batch["targets"] for batch in batches], device)

    def _step_counts(self, targets: Sequence[Any], device: torch.device) -> dict[str, torch.Tensor]:
        counts = [self.objective.counts(one) for one in targets]
        if not counts:
            return {}
        sums = torch.tensor([sum(int(one[name]) for one in counts) for name in counts[0]])
        return dict(zip(counts[0], self._sum_over_processes(sums, device), strict=True))

    def _sum_over_processes(self, own: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
        own = own.to(device or self.args.device, non_blocking=True)  # else the step before would be waited for
        summed: torch.Tensor = self.accelerator.reduce(own, "sum")
        return summed

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Loss of one batch, as its share of the whole step's; `num_items_in_batch` are the step's counts by term."""
        targets, forward = inputs["targets"], inputs["inputs"]
        counts = num_items_in_batch or self._step_counts([targets], self.args.device)
        with self.objective.watching(self.model) as features:
            if "vision" in inputs:
                assert self.kept_features is not None  # its data set names the pictures
                with self.accelerator.autocast():
                    forward, vision = self.kept_features.join(self.model, forward, inputs["vision"])
                if features is not None:  # a tower that is not run tells a head nothing
                    features.vision = vision
            elif self.speed is not None and self.speed.frozen_vision and "pixel_values" in forward:
                with self.accelerator.autocast():
                    forward = frozen_features(self.model, forward, targets["grids"])
            self.settle_step()  # the GPU has the tower to run meanwhile
            options = language.forward_options(targets) if self.speed is None or self.speed.label_logits else {}
            outputs = model(**forward, **options, use_cache=False)
        bare: Any = self.model
        embedding = bare.get_input_embeddings().weight
        if self.objective.head is not None:
            embedding = sharding.whole(embedding)
        with self.accelerator.autocast():  # its wrapper around the model does not reach the head
            sums = self.objective.sums(outputs.logits, features, embedding, targets)
        self.terms.add(sums, counts)
        if self.stability is not None:
            self.stability.note_text(self.objective.text(sums))
        # gradients are averaged over processes, the counts are sums over them
        loss = self.objective.share(sums, counts) * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """As `Trainer.training_step`; the gradients of a step are looked at once the last of its batches was there.

        Raises:
            RunError: memory ran out, and smaller parts are no way out.
        """
        self._step_in_hand.append(inputs)
        todo = [inputs]
        while True:
            try:
                losses = [self._batch_loss(model, batch, num_items_in_batch) for batch in todo]
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.parts.halve(self.state.global_step + 1, error)
            release_memory()
            model.zero_grad()
            self.forget_step()
            todo = self._step_in_hand
        if self.accelerator.sync_gradients:
            self.rates.phases.drop_gradients()
            if self.stability is not None:
                self.stability.judge(self.optimizer, self.state.global_step + 1)
        return losses[-1]

    def _batch_loss(self, model: Any, batch: Any, counts: Any) -> torch.Tensor:
        """Of a batch in as many parts as memory wants."""
        losses = []
        names_operations = self.stability is not None and self.stability.settings.anomaly_mode
        for part in self.parts.of(batch):
            sample_ids = part["targets"]["sample_ids"]
            with naming_operations(names_operations, self.state.global_step + 1, sample_ids):
                loss = self._compiled_step(model, part, counts)
            losses.append(loss if self.stability is None else self.stability.note(loss, sample_ids))
        return torch.stack(losses).sum()

    def forget_step(self) -> None:
        """Take back what the step in hand has left behind so far, but for its gradients."""
        self.terms.forget_step()
        if self.stability is not None:
            self.stability.forget_step()

    def settle_step(self) -> None:
        """Hear how the step before was judged; where it was bad, rates are others now."""
        if self.stability is None:
            return
        before = dict(self.stability.lowered)
        self.stability.settle(self.optimizer)
        if self.stability.lowered != before:
            assert self.lr_scheduler is not None
            self.rates.refresh(self.lr_scheduler)

    def verify_weights(self) -> None:
        """See `Stability.verify`."""
        if self.stability is not None:
            self.stability.verify(self.optimizer, self.state.global_step)

    def _compiled_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> torch.Tensor:
        """Where the blocks do not compile, the first step is done again without."""
        if not self._compiles:
            return super().training_step(model, inputs, num_items_in_batch)
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except Exception as error:
            if not is_compile_error(error):
                raise
            release_blocks(self.model)
            reason = " ".join(str(error).split("\n")[:2])  # who failed, and why
            self.say(f"Blocks run uncompiled: compiling them failed ({type(error).__name__}: {reason[:200]}).")
            model.zero_grad()  # of a backward pass that came halfway
            self.forget_step()
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._compiles = False
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with each term of the loss where there are several, and the share of the time since then
        that was spent waiting for data.
        """
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            del logs["grad_norm"]  # of a step that is left out
        if "loss" in logs:
            now = time.perf_counter()
            names, means = self.terms.take()
            if len(names) > 1:
                means = self.accelerator.reduce(means, "sum")
                logs |= {f"loss_{name}": mean for name, mean in zip(names, means.tolist(), strict=True)}
            if self.rates.of_step:  # groups may have others than the first, which transformers logs
                logs["learning_rate"] = max(self.rates.of_step.values())
            logs["waiting"] = round(self.waited_seconds / max(now - self._logged_at, 1e-9), 4)
            self.waited_seconds, self._logged_at = 0.0, now
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The watched images, which all processes look at, each at a part, while their clocks stand still.

        Callbacks hear of it by `on_evaluate`, as of any evaluation of transformers; saving comes after it.
        """
        if self.watch is None:
            return super().evaluate(*args, **kwargs)
        with self.clock.standing_still(), uncompiled():
            figures: dict[str, float] | None = broadcast_object_list([self._look(self.watch)])[0]  # the seconds differ
        if figures is None:  # a signal came
            self.control.should_save = self.control.should_training_stop = True
            return {}
        self.log(dict(figures))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def _look(self, watch: Watch) -> dict[str, float] | None:
        try:
            return watch.look(self.model)
        except LookEnded:
            return None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Weights as transformers or PEFT write them, and those of a detection head beside them, or alone."""
        own, of_head = (None, None) if state_dict is None else split_state(state_dict)
        folder = Path(output_dir or self.args.output_dir or "")
        with detached(self.model) as head:
            if not self.head_alone:
                super()._save(output_dir, own)
        if head is not None and self.args.should_save:
            save_head(head, folder, of_head)
        if self.head_alone and self.args.should_save:
            processor: Any = self.processing_class
            processor.save_pretrained(folder)

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
        if sharding.is_sharded(model):
            return  # `train` has done it before
        with detached(model) as head:
            if self.head_alone:
                pass  # the rest is as it was loaded
            elif isinstance(model, PreTrainedModel):
                saved = type(model).from_pretrained(resume_from_checkpoint, dtype=torch.float32, use_safetensors=True)
                model.load_state_dict(saved.state_dict())
            else:  # adapters keep their names
                super()._load_from_checkpoint(resume_from_checkpoint, model)
        if head is not None:
            head.load_state_dict(load_head(Path(resume_from_checkpoint), model.config.get_text_config()).state_dict())

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.create_optimizer`; each group of parameters has its own rate."""
        optimizer = super().create_optimizer(*args, **kwargs)
        self.rates.divide(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The rates follow the run's clock, its phases, and what faults left of them."""
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            if self.is_fsdp_enabled:  # the model is divided by now
                self.rates.follow(optimizer)
            self.lr_scheduler = self.rates.scheduler(optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler
