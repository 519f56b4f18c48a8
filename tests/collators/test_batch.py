"""Padded, packed or one by one: the same loss and the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch

from boxtune.collators.batch import Collator, pack, pad
from boxtune.losses import language
from boxtune.losses.language import IGNORED
from boxtune.models.families import FAMILIES
from collators.conversations import encode_messages, encoder_of, many_turns, picture, two_images

each_family = pytest.mark.parametrize("model_type", FAMILIES)


def run(model, batch) -> torch.Tensor:
    outputs = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False)
    return language.total(outputs.logits, batch["targets"])


def losses_and_gradients(model, batches) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = torch.stack([run(model, batch) for batch in batches]).sum()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parity
@pytest.mark.parametrize("labels", ["assistant", "all_text"])
@each_family
def test_batching_changes_neither_loss_nor_gradients(tiny, samples, model_type, labels):
    """fp32 sums in another order: 1e-5 of the largest entry of each gradient."""
    model, processor = tiny(model_type)
    model = copy.deepcopy(model)
    encoder = encoder_of(model_type, processor)
    single = [Collator(encoder, labels)([sample]) for sample in samples]
    expected_loss, expected = losses_and_gradients(model, single)
    for batching in ("padded", "packed"):
        batch = Collator(encoder, labels, batching)(samples)
        loss, gradients = losses_and_gradients(model, [batch])
        assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
        assert int(language.count(batch["targets"])) == sum(int(language.count(b["targets"])) for b in single)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            largest = max(float(expected[name].abs().max()), 1e-3)
            assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-5 * largest), (batching, name)


@pytest.mark.parity
@each_family
def test_packing_keeps_several_images_and_turns_apart(tiny, model_type):
    model, processor = tiny(model_type)
    encoder = encoder_of(model_type, processor)
    conversations = [
        encode_messages(encoder, two_images(), [picture(60, 90, 1), picture(120, 60, 2)]),
        encode_messages(encoder, many_turns(), [picture(100, 60, 3), picture(60, 60, 4)]),
    ]
    inputs, _ = pack(conversations, [c.input_ids for c in conversations], 2)
    with torch.no_grad():
        packed = model(**inputs, use_cache=False).logits[0].split([len(c) for c in conversations])
        for conversation, logits in zip(conversations, packed, strict=True):
            alone, _ = pad([conversation], [conversation.input_ids], 0)
            assert torch.allclose(logits, model(**alone, use_cache=False).logits[0], rtol=0, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("batching", ["padded", "packed"])
@each_family
def test_logits_at_labels_alone_give_the_same_loss_and_gradients(tiny, samples, model_type, batching):
    model, processor = tiny(model_type)
    model = copy.deepcopy(model)
    batch = Collator(encoder_of(model_type, processor), batching=batching)(samples)
    expected_loss, expected = losses_and_gradients(model, [batch])
    model.zero_grad()
    logits = model(**batch["inputs"], use_cache=False).logits
    assert logits.shape[1] == batch["inputs"]["input_ids"].shape[1]
    loss = language.total(logits, batch["targets"])
    loss.backward()
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parity
@each_family
def test_a_packed_neighbour_changes_nothing(tiny, samples, model_type):
    """Whatever stands before a sample, its own logits are the same (positions start anew, attention stops)."""
    model, processor = tiny(model_type)
    encoder = encoder_of(model_type, processor)
    last = encoder.sample(samples[3])

    def logits_of_last(others):
        encoded = [encoder.sample(sample) for sample in others] + [last]
        inputs, _ = pack(encoded, [e.input_ids for e in encoded], 2)
        with torch.no_grad():
            return model(**inputs, use_cache=False).logits[0, -len(last) :]

    first, second = logits_of_last([samples[0]]), logits_of_last([samples[1], samples[2]])
    assert torch.allclose(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(tiny, samples, side):
    processor = tiny("qwen2_5_vl")[1]
    encoded = [encoder_of("qwen2_5_vl", processor).sample(sample) for sample in samples]
    pad_id = processor.tokenizer.pad_token_id
    inputs, labels = pad(encoded, [e.input_ids for e in encoded], pad_id, side=side)
    longest = max(map(len, encoded))
    for row, sample in enumerate(encoded):
        width = len(sample)
        own = slice(longest - width, None) if side == "left" else slice(0, width)
        padding = torch.ones(longest, dtype=torch.bool)
        padding[own] = False
        assert torch.equal(inputs["input_ids"][row, own], sample.input_ids)
        assert (inputs["input_ids"][row, padding] == pad_id).all()
        assert torch.equal(inputs["attention_mask"][row].bool(), ~padding)
        assert torch.equal(inputs["mm_token_type_ids"][row, own].bool(), sample.vision_mask)
        assert not inputs["mm_token_type_ids"][row, padding].any()
        assert (labels[row, padding] == IGNORED).all()
    assert torch.equal(inputs["pixel_values"], torch.cat([e.pixel_values for e in encoded]))
    assert inputs["image_grid_thw"].tolist() == [e.image_grid_thw[0].tolist() for e in encoded]


def test_packed_row(tiny, samples):
    processor = tiny("qwen2_5_vl")[1]
    encoder = encoder_of("qwen2_5_vl", processor)
    batch = Collator(encoder, "all_text", "packed")(samples)
    lengths = [len(encoder.sample(sample)) for sample in samples]
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    inputs, labels = batch["inputs"], batch["targets"]["labels"]
    borders = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
    assert inputs.keys() == {"input_ids", "position_ids", "pixel_values", "image_grid_thw"} | borders
    assert inputs["cu_seq_lens_q"].tolist() == inputs["cu_seq_lens_k"].tolist() == [*starts.tolist(), sum(lengths)]
    assert inputs["max_length_q"] == inputs["max_length_k"] == max(lengths)
    assert inputs["position_ids"].shape == (4, 1, sum(lengths))
    assert (labels[0, starts] == IGNORED).all()
    assert (inputs["position_ids"][:, 0, starts] == 0).all()
    assert (inputs["position_ids"][0, 0] == 0).sum() == len(samples)
    untouched = torch.ones(sum(lengths), dtype=torch.bool)
    untouched[starts] = False
    padded = Collator(encoder, "all_text")(samples)["targets"]["labels"]
    expected = torch.cat([row[:length] for row, length in zip(padded, lengths, strict=True)])
    assert torch.equal(labels[0, untouched], expected[untouched])


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_batch_names_its_samples(tiny, samples, batching):
    batch = Collator(encoder_of("qwen2_vl", tiny("qwen2_vl")[1]), batching=batching)(samples)
    assert batch.keys() == {"inputs", "targets"}
    assert batch["targets"]["sample_ids"] == [sample.id for sample in samples]
