"""Our samples and collators in a plain SFTTrainer of TRL: the example that the trainer's docstring speaks of."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("trl")

import datasets
import torch
from trl import SFTConfig, SFTTrainer

from boxtune.collators.batch import Collator
from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.losses import language
from collators.conversations import encoder_of


def rows_of(samples, encoder) -> datasets.Dataset:
    """What TRL knows (images, messages), and the boxes that our encoder writes itself."""
    rows = [
        {
            "images": [sample.image],
            "messages": encoder.style.question(),
            "boxes": sample.detections.xyxy.tolist(),
            "labels_of_boxes": list(sample.detections.labels),
            "name": sample.id,
        }
        for sample in samples
    ]
    images = datasets.List(datasets.Image())
    return datasets.Dataset.from_list(rows).cast_column("images", images)


def collator_for_trl(collator: Collator):
    """Rows → one flat dict, as TRL wants it."""

    def collate(rows):
        samples = [
            Sample(row["name"], row["images"][0], Detections(row["boxes"], row["labels_of_boxes"]), "row")
            for row in rows
        ]
        batch = collator(samples)
        return {**batch["inputs"], "labels": batch["targets"]["labels"]}

    return collate


@pytest.mark.parametrize("batching", ["padded", "packed"])
@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_runs_in_a_plain_sft_trainer(tiny, samples, tmp_path, model_type, batching):
    model, processor = tiny(model_type)
    model = copy.deepcopy(model)
    collator = Collator(encoder_of(model_type, processor), batching=batching)
    batch = collator(samples)
    with torch.no_grad():
        options = language.forward_options(batch["targets"])
        logits = model(**batch["inputs"], **options, use_cache=False).logits
    expected = language.total(logits, batch["targets"]) / language.count(batch["targets"])
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=len(samples),
            learning_rate=1e-3,
            warmup_steps=0,
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            # the five that make it ours: no preparation, no dropped columns, a loss with logits, nothing cut
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            loss_type="nll",
            max_length=None,
        ),
        train_dataset=rows_of(samples, collator.encoder),
        data_collator=collator_for_trl(collator),
        processing_class=processor,
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(expected.item(), rel=1e-4)
    assert losses[1] < losses[0]
