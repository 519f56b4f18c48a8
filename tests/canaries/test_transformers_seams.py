"""Seams of transformers and peft that boxtune leans on. A failure here says which one has moved."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from boxtune.collators.batch import Collator, pack, pad
from boxtune.losses import language
from boxtune.models.families import FAMILIES
from boxtune.training.clock import RunClock
from boxtune.training.rates import Rates
from boxtune.training.trainer import DetectionTrainer
from collators.conversations import encoder_of

each_family = pytest.mark.parametrize("model_type", FAMILIES)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("get_batch_samples", ["self", "epoch_iterator", "num_batches", "device"]),
        ("create_scheduler", ["self", "num_training_steps", "optimizer"]),
        ("compute_loss", ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
    ],
)
def test_overridden_methods_have_the_signature_that_we_override(method, parameters):
    assert list(inspect.signature(getattr(Trainer, method)).parameters) == parameters
    assert list(inspect.signature(getattr(DetectionTrainer, method)).parameters) == parameters


def test_trainer_reads_the_flag_of_scaled_losses():
    assert "loss_is_scaled_for_ga" in vars(Trainer)
    assert "self.loss_is_scaled_for_ga" in inspect.getsource(Trainer.training_step)


def weights_after_one_step(tiny, samples, folder, batch_size: int, batching: str) -> dict[str, torch.Tensor]:
    model, processor = tiny("qwen2_5_vl")
    model = copy.deepcopy(model)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=4 // batch_size,
        learning_rate=1.0,
        optim="sgd",
        max_grad_norm=0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=0,
    )
    trainer = DetectionTrainer(
        model=model,
        args=arguments,
        train_dataset=samples,
        data_collator=Collator(encoder_of("qwen2_5_vl", processor), batching=batching),
        clock=(clock := RunClock(None)),
        rates=Rates(clock, lambda *_: 1.0),
    )
    trainer.train()
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("batch_size", "batching"), [(1, "padded"), (2, "padded"), (2, "packed"), (4, "packed")])
def test_accumulation_changes_nothing(tiny, samples, tmp_path, batch_size, batching):
    """The loss is divided once, by the labels of the whole step; plain SGD shows any other scale."""
    before = {name: p.detach() for name, p in tiny("qwen2_5_vl")[0].named_parameters()}
    expected = weights_after_one_step(tiny, samples, tmp_path, 4, "padded")
    found = weights_after_one_step(tiny, samples, tmp_path, batch_size, batching)
    for name, weight in expected.items():
        moved = float((weight - before[name]).abs().max())
        assert torch.allclose(found[name], weight, rtol=0, atol=1e-4 * moved + 1e-7), name
    assert max(float((w - before[n]).abs().max()) for n, w in expected.items()) > 1e-3


@each_family
def test_logits_to_keep_takes_columns(tiny, samples, model_type):
    model, processor = tiny(model_type)
    encoded = [encoder_of(model_type, processor).sample(sample) for sample in samples[:2]]
    inputs, _ = pad(encoded, [e.input_ids for e in encoded], processor.tokenizer.pad_token_id)
    columns = torch.tensor([3, 17, 40])
    with torch.no_grad():
        everything = model(**inputs, use_cache=False).logits
        kept = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    assert torch.allclose(kept, everything[:, columns], rtol=0, atol=1e-5)


@each_family
def test_samples_are_kept_apart_by_the_text_row_of_positions_only(tiny, samples, model_type):
    """With the text row they are isolated; without it ([3, 1, L]) they leak: the row is what does it."""
    model, processor = tiny(model_type)
    encoded = [encoder_of(model_type, processor).sample(sample) for sample in samples]
    inputs, _ = pack(encoded, [e.input_ids for e in encoded], 2)
    last = slice(-len(encoded[-1]), None)
    alone, _ = pack(encoded[-1:], [encoded[-1].input_ids], 2)
    with torch.no_grad():
        expected = model(**alone, use_cache=False).logits[0]
        isolated = model(**inputs, use_cache=False).logits[0, last]
        inputs["position_ids"] = inputs["position_ids"][1:]
        leaking = model(**inputs, use_cache=False).logits[0, last]
    assert float((isolated - expected).abs().max()) < 1e-5
    assert float((leaking - expected).abs().max()) > 1e-3


def test_a_string_of_target_modules_is_matched_in_full():
    """peft: `re.fullmatch` for a string, so our patterns need no `^` and `$`."""
    from peft import LoraConfig, get_peft_model

    layers = nn.ModuleDict({"proj": nn.Linear(2, 2), "o_proj": nn.Linear(2, 2), "proj_2": nn.Linear(2, 2)})
    model = get_peft_model(nn.Sequential(layers), LoraConfig(target_modules=r"0\.(proj)|(1\.proj)"))
    hit = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert hit == {"base_model.model.0.proj"}


def test_peft_freezes_everything_but_its_adapters():
    """The reason why areas that are trained in full are opened after the adapters are put in."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), LoraConfig(target_modules="0"))
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".lora_" not in name)


def test_loss_is_that_of_the_model_itself(tiny, samples):
    """Ours, a sum at the kept columns over a count, against transformers' own mean over all columns."""
    model, processor = tiny("qwen3_vl")
    batch = Collator(encoder_of("qwen3_vl", processor))(samples)
    targets = batch["targets"]
    with torch.no_grad():
        logits = model(**batch["inputs"], **language.forward_options(targets), use_cache=False).logits
        own = model(**batch["inputs"], labels=targets["labels"], use_cache=False).loss
    ours = language.total(logits, targets) / language.count(targets)
    assert ours.item() == pytest.approx(own.item(), rel=1e-5)
