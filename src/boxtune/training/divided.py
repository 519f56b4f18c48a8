"""A Trainer whose weights may be divided among processes, while its files do not tell: see `sharding` and `zero`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from transformers import Trainer, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from boxtune.training import sharding, zero


class DividedTrainer(Trainer):
    """As transformers' Trainer, but for how FSDP2 and ZeRO are set up, saved and resumed.

    Attributes:
        head_alone: nothing but a detection head is trained, and its base is named: files hold the head alone.
    """

    head_alone = False

    def create_accelerator_and_postprocess(self) -> None:
        """As `Trainer.create_accelerator_and_postprocess`; FSDP also on a CPU."""
        super().create_accelerator_and_postprocess()
        asked = self.args.fsdp_plugin_args
        if asked is None and not self.is_fsdp_enabled and not parse_flag_from_env("ACCELERATE_USE_FSDP"):
            return
        sharding.settle(self.accelerator, None if asked is None else FullyShardedDataParallelPlugin(**asked))
        self.is_fsdp_enabled = True

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; weights of a checkpoint are taken while each process still has all."""
        if isinstance(resume_from_checkpoint, str) and self.is_fsdp_enabled:
            self._load_from_checkpoint(resume_from_checkpoint)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:  # transformers would divide every model that is loaded from now on
            unset_hf_deepspeed_config()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`; divided weights are put together, and written as one process writes them."""
        only_trained = self.head_alone or hasattr(self.model, "peft_config")
        if self.is_fsdp_enabled:
            self._save(output_dir, sharding.whole_weights(self.model, only_trained=only_trained))
        elif self.is_deepspeed_enabled:
            self._save(output_dir, zero.whole_weights(self.model_wrapped, only_trained=only_trained))
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with sharding.of_own_class(self.model):
            super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.lr_scheduler is not None
        state = sharding.whole_optimizer_state(self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        assert self.lr_scheduler is not None
        sharding.load_whole_optimizer_state(self.optimizer, Path(checkpoint) / OPTIMIZER_NAME)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """As `Trainer._load_rng_state`; in another number of processes than have saved it, chance begins anew."""
        saved = 0 if checkpoint is None else len(list(Path(checkpoint).glob("rng_state*.pth")))
        if saved in (0, self.args.world_size):
            super()._load_rng_state(checkpoint)
        else:
            set_seed(self.args.seed + self.state.global_step)
