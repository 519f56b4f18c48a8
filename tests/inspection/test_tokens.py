"""Counts and runs of tokens, held against the labels of the collator and the count of the loss."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from rich.console import Console

from boxtune.collators.batch import Collator
from boxtune.collators.encode import SampleEncoder
from boxtune.data.conversation import ConversationStyle
from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.inspection.tokens import analyze_token_distribution, print_tokens, run_text, visible
from boxtune.losses.language import IGNORED, count
from boxtune.models.families import FAMILIES, family

HOSTILE = "[red]x[/red]\x1b[31m\u202eevil\x07\n"


def collator(processor, model_type="qwen2_vl", labels=("table",), mask="assistant", batching="padded") -> Collator:
    return Collator(SampleEncoder(processor, ConversationStyle(family(model_type).codec, labels)), mask, batching)


def image_id(processor) -> int:
    return processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")


@pytest.mark.parametrize("batching", ["padded", "packed"])
@pytest.mark.parametrize("mask", ["assistant", "all_text"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_counts_are_those_of_the_batch_and_of_the_loss(tiny, samples, model_type, mask, batching):
    processor = tiny(model_type)[1]
    make = collator(processor, model_type, ("table", "red cell"), mask, batching)
    batch = make(samples)
    found = analyze_token_distribution(batch, image_id(processor))
    ids = batch["inputs"]["input_ids"]
    assert found.batching == batching
    assert found.counts["trained"] == count(batch["targets"])
    assert found.counts["image"] == (ids == image_id(processor)).sum()
    assert found.num_tokens == ids.numel()
    assert found.num_trained_image_tokens == 0
    assert [sample.length for sample in found.samples] == [len(make.encoder.sample(sample)) for sample in samples]
    assert [sample.sample_id for sample in found.samples] == [sample.id for sample in samples]
    padding = 0 if batching == "packed" else int((batch["inputs"]["attention_mask"] == 0).sum())
    assert found.counts["padding"] == padding
    assert found.share_trained == pytest.approx(found.counts["trained"] / (ids.numel() - padding))


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_runs_cover_each_sample_without_gap(tiny, samples, batching):
    processor = tiny("qwen2_5_vl")[1]
    batch = collator(processor, "qwen2_5_vl", batching=batching)(samples)
    found = analyze_token_distribution(batch, image_id(processor))
    for sample in found.samples:
        borders = [sample.start, *(run.end for run in sample.runs)]
        assert borders == [*(run.start for run in sample.runs), sample.end]
        kinds = [run.kind for run in sample.runs]
        assert kinds[:4] == ["masked", "image", "masked", "trained"]
    if batching == "packed":
        assert [s.start for s in found.samples[1:]] == [s.end for s in found.samples[:-1]]
        assert {s.row for s in found.samples} == {0}


def test_the_trained_text_is_the_answer_with_its_stop_token(tiny, samples):
    processor = tiny("qwen2_5_vl")[1]
    batch = collator(processor, "qwen2_5_vl")(samples[:1])
    found = analyze_token_distribution(batch, image_id(processor))
    (trained,) = (run for run in found.samples[0].runs if run.kind == "trained")
    text = run_text(trained, batch["inputs"]["input_ids"][0], processor.tokenizer)
    assert text.startswith('[{"bbox_2d": [')
    assert text.endswith(r"<|im_end|>\n")


def printed(processor, batch, **options) -> str:
    out = io.StringIO()
    found = analyze_token_distribution(batch, image_id(processor))
    print_tokens(found, batch, processor.tokenizer, Console(file=out, **{"width": 60, **options}))
    return out.getvalue()


def test_printed_without_colours_everything_is_still_said(tiny, samples):
    processor = tiny("qwen2_vl")[1]
    said = printed(processor, collator(processor)(samples[:2]))
    image_tokens = analyze_token_distribution(collator(processor)(samples[:1]), image_id(processor)).counts["image"]
    assert f"<|image_pad|> x {image_tokens}" in said
    assert "<|image_pad|><|image_pad|>" not in said
    assert "sample 2, 'image-1'" in said
    assert {line.split()[0] for line in said.splitlines() if line} >= {
        "masked",
        "image",
        "trained",
        "padding",
        "Trained:",
    }
    assert "\x1b" not in said


def test_colours_in_a_terminal_and_borders_of_packed_samples(tiny, samples):
    processor = tiny("qwen2_vl")[1]
    said = printed(processor, collator(processor, batching="packed")(samples), force_terminal=True)
    assert "\x1b[1;32m" in said  # trained, bold green
    assert said.count("border: nothing after it sees what stands before") == len(samples) - 1


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl"])
def test_hostile_labels_and_names_print_harmlessly(tiny, model_type):
    processor = tiny(model_type)[1]
    sample = Sample(f"id{HOSTILE}", Image.new("RGB", (60, 60)), Detections([[1, 2, 30, 40]], [HOSTILE]), "test")
    said = printed(processor, collator(processor, model_type, (HOSTILE,))([sample]))
    assert not {"\x1b", "\x07", "\u202e"} & set(said)
    assert r"id[red]x[/red]\x1b[31m\u202eevil\x07\n" in said


def test_visible():
    assert visible("a b é 表 [x]") == "a b é 表 [x]"
    assert visible("\n\t\x00\x9b\u200b\u2028\ud800") == r"\n\t\x00\x9b\u200b\u2028\ud800"


def test_a_sample_without_trained_tokens_and_trained_image_tokens_are_told(tiny, samples):
    processor = tiny("qwen2_vl")[1]
    batch = collator(processor)(samples[:2])
    batch["targets"]["labels"][0] = IGNORED
    batch["targets"]["labels"][1] = batch["inputs"]["input_ids"][1]
    found = analyze_token_distribution(batch, image_id(processor))
    assert found.untrained_samples == ("image-0",)
    assert found.num_trained_image_tokens == int((batch["inputs"]["input_ids"][1] == image_id(processor)).sum())
    said = printed(processor, batch)
    assert "Nothing is learned from image-0" in said
    assert "image tokens are trained" in said


def test_the_batch_is_not_changed(tiny, samples):
    processor = tiny("qwen2_vl")[1]
    batch = collator(processor, mask="all_text")(samples)
    before = {name: tensor.clone() for name, tensor in batch["inputs"].items()}
    labels = batch["targets"]["labels"].clone()
    analyze_token_distribution(batch, image_id(processor))
    assert torch.equal(batch["targets"]["labels"], labels)
    assert all(torch.equal(batch["inputs"][name], before[name]) for name in before)
