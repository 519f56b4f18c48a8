"""The judgement at the end of a run: all processes look at the val split, the first one writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from boxtune import processes
from boxtune.config.engines import engine_of
from boxtune.config.schema import Config
from boxtune.data.dataset import DetectionDataset
from boxtune.evaluation.evaluate import Evaluation, evaluate, write_evaluation
from boxtune.evaluation.metrics import Metrics
from boxtune.evaluation.provenance import seen_images, seen_note
from boxtune.evaluation.report import write_report
from boxtune.inference.detector import Detector, load_detector
from boxtune.models.contract import Contract
from boxtune.models.load import LoadedModel
from boxtune.training.interlude import as_loaded
from boxtune.training.trainer import DetectionTrainer


def evaluate_at_end(
    config: Config,
    trainer: DetectionTrainer,
    loaded: LoadedModel,
    contract: Contract,
    val_set: DetectionDataset,
    losses: Sequence[tuple[int, float]],
    console: Console,
) -> Metrics:
    """Metrics, predictions and the report, in the output folder, which holds the model.

    Args:
        config: fitted.
        trainer: that has trained and saved.
        loaded: processor, head and base of the model.
        contract: of the run.
        val_set: to judge by.
        losses: logged `(step, loss)`, for the report.
        console: shows progress there.
    """
    trained = _trained(config, trainer, loaded, contract)
    detector = Detector(trained, batch_size=int(config.evaluation.batch_size), decoder=config.decoder)
    limit = config.evaluation.max_images
    held = val_set if limit is None else val_set.subset(range(min(limit, len(val_set))))
    with as_loaded(trained.model):
        evaluation: Evaluation = evaluate(detector, held, console=console, details=True, shared=True)
    if (note := seen_note(seen_images(Path(config.output_dir), held))) is not None:
        evaluation = dataclasses.replace(evaluation, notes=(note,))
    if processes.is_first():
        output_dir = Path(config.output_dir)
        write_evaluation(output_dir, evaluation)
        title = f"{output_dir.name}: {config.model.name} trained on {val_set.name}"
        models = [(output_dir.name, evaluation)]
        write_report(output_dir / "report.html", title=title, models=models, samples=held, losses=losses)
    return evaluation.metrics


def _trained(config: Config, trainer: DetectionTrainer, loaded: LoadedModel, contract: Contract) -> LoadedModel:
    """The model as it lies in memory; a divided one cannot be asked, and is loaded from its folder."""
    if engine_of(config) == "ddp":
        return dataclasses.replace(loaded, model=trainer.model, contract=contract, trained_here=True)
    _release(trainer)
    trainer.accelerator.wait_for_everyone()  # the first process has just written it
    quantize: Any = config.model.quantize
    return load_detector(config.output_dir, config.model.device, quantize=quantize).loaded


def _release(trainer: Any) -> None:
    """Gradients and the optimizer's state are not needed any more, and may be most of the memory."""
    if trainer.is_deepspeed_enabled:
        trainer.model_wrapped.destroy()
    else:
        trainer.optimizer.zero_grad()
        trainer.optimizer.state.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
