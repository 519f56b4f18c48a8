"""Conversations with worked examples, from the encoder to the batch: text, spans, lengths, parts of the loss."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from boxtune.collators.batch import Collator
from boxtune.collators.labels import of_examples
from boxtune.collators.lengths import check_lengths, num_tokens, sample_lengths, token_shares
from boxtune.collators.objects import ObjectTargets
from boxtune.collators.parts import halves, num_samples
from boxtune.data.dataset import load_dataset
from boxtune.data.examples import ExampleDataset
from boxtune.data.sample import Sample, SampleWithExamples
from boxtune.detections import Detections
from boxtune.errors import DataError
from boxtune.losses import language
from boxtune.losses.language import IGNORED, STUDENT, TEACHER
from boxtune.models.detection_head.memory import gather_memory, question_span
from boxtune.models.detection_head.tap import tapped
from boxtune.models.families import FAMILIES
from boxtune.training.objective import Objective
from collators.conversations import encoder_of, picture
from collators.test_parts import sums_of, with_head

each_family = pytest.mark.parametrize("model_type", FAMILIES)
each_batching = pytest.mark.parametrize("batching", ["padded", "packed"])


def taught(samples, number: int = 2) -> list[SampleWithExamples]:
    """Each sample behind the next ones of the list."""
    rows = []
    for index, one in enumerate(samples):
        others = tuple(samples[(index + step) % len(samples)] for step in range(1, number + 1))
        rows.append(SampleWithExamples(one.id, one.image, one.detections, one.source, others))
    return rows


def text_of(encoder, encoded, span) -> str:
    return encoder.processor.tokenizer.decode(encoded.input_ids[slice(*span)])


# ---- one conversation ------------------------------------------------------------------------------------------------


@each_family
def test_the_conversation_is_what_the_processor_itself_makes(tiny, samples, model_type):
    processor = tiny(model_type)[1]
    encoder = encoder_of(model_type, processor, num_examples=2, system="Look well.")
    sample = taught(samples)[0]
    encoded = encoder.sample(sample)
    shown = [encoder.example(one).shown for one in sample.examples]
    alone = encoder_of(model_type, processor, system="Look well.").sample(samples[0])
    answer = encoder.style.answer(sample.detections, sample.image_hw, alone.input_hw)
    text = processor.apply_chat_template([*encoder.style.question(examples=shown), answer])
    images = [*(one.image for one in sample.examples), sample.image]
    expected = processor(text=[text], images=images, return_tensors="pt")
    assert torch.equal(encoded.input_ids, expected["input_ids"][0])
    assert torch.equal(encoded.image_grid_thw, expected["image_grid_thw"])
    torch.testing.assert_close(encoded.pixel_values, expected["pixel_values"])
    assert (encoded.image_hw, encoded.input_hw) == (alone.image_hw, alone.input_hw)
    assert text.count("Look well.") == 1


@each_family
def test_every_answer_is_that_of_its_own_image(tiny, samples, model_type):
    processor = tiny(model_type)[1]
    encoder, plain = encoder_of(model_type, processor, num_examples=2), encoder_of(model_type, processor)
    for sample in taught(samples):
        encoded = encoder.sample(sample)
        answers = [text_of(encoder, encoded, span) for span in encoded.answer_spans]
        singles = [plain.sample(one) for one in (*sample.examples, Sample("", sample.image, sample.detections, ""))]
        assert answers == [text_of(plain, one, one.answer_spans[0]) for one in singles]


@each_family
def test_the_last_question_begins_where_the_examples_end(tiny, samples, model_type):
    processor = tiny(model_type)[1]
    encoder = encoder_of(model_type, processor, num_examples=1)
    encoded = encoder.sample(taught(samples, 1)[0])
    first, last = encoded.answer_spans
    assert torch.equal(of_examples(encoded), torch.arange(len(encoded)) < first[1])
    assert question_span(encoded.answer_spans, len(encoded)) == (first[1], last[0])
    assert not of_examples(encoder_of(model_type, processor).sample(samples[0])).any()


def test_an_example_names_only_what_is_asked_for(tiny, samples):
    encoder = encoder_of("qwen2_5_vl", tiny("qwen2_5_vl")[1])
    example = encoder.example(samples[2])
    both, one, none = (
        encoder.style.question(labels, [example.shown])[1]["content"][0]["text"]
        for labels in (("table", "red cell"), ("red cell",), ("bicycle",))
    )
    assert [entry["label"] for entry in json.loads(one)] == ["red cell"]
    assert len(json.loads(both)) == 2
    assert json.loads(none) == []


def test_a_question_ends_where_the_answer_begins(tiny, samples):
    encoder = encoder_of("qwen3_vl", tiny("qwen3_vl")[1], num_examples=1)
    sample = taught(samples, 1)[0]
    asked = encoder.question(sample.image, None, [encoder.example(sample.examples[0])])
    encoded = encoder.sample(sample)
    assert torch.equal(asked.input_ids, encoded.input_ids[: encoded.answer_spans[-1][0]])
    assert torch.equal(asked.pixel_values, encoded.pixel_values)


# ---- lengths ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    rows = []
    for index, size in enumerate([(40, 60), (200, 210), (120, 90), (300, 200)]):
        picture(*size).save(tmp_path / f"{index}.png")
        boxes = [{"bbox_xyxy_px": [1, 2, 20 + 10 * i, 30], "label": "table"} for i in range(index + 1)]
        rows.append({"image": f"{index}.png", "objects": boxes})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load_dataset(str(tmp_path), split=None)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_vl"])  # of qwen2_5_vl, digits are not known before
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_length_is_the_most_that_any_epoch_brings(tiny, dataset, model_type, number):
    encoder = encoder_of(model_type, tiny(model_type)[1], num_examples=number)
    told = list(sample_lengths(encoder, dataset))
    shown = ExampleDataset(dataset, number)
    most = [0] * len(dataset)
    for epoch in range(25):
        shown.set_epoch(epoch)
        for index in range(len(dataset)):
            sample = shown[index]
            others = [(one.detections, one.image_hw) for one in sample.examples]
            length = num_tokens(encoder, sample.detections, sample.image_hw, others)
            assert epoch or length == len(encoder.sample(sample))
            most[index] = max(most[index], length)
    assert most == told


def test_lengths_that_may_come_are_refused_before_training(tiny, dataset):
    processor = tiny("qwen3_vl")[1]
    longest = max(sample_lengths(encoder_of("qwen3_vl", processor, num_examples=1), dataset))
    check_lengths(encoder_of("qwen3_vl", processor, num_examples=1, max_length=longest), dataset)
    with pytest.raises(DataError, match=r"longest data\.examples=1\): raise it, lower model\.max_pixels or data\.ex"):
        check_lengths(encoder_of("qwen3_vl", processor, num_examples=1, max_length=longest - 1), dataset)


def test_shares_are_those_of_a_sample_alone(tiny, dataset):
    processor = tiny("qwen3_vl")[1]
    with_examples = token_shares(encoder_of("qwen3_vl", processor, num_examples=2), dataset, "assistant")
    assert with_examples == token_shares(encoder_of("qwen3_vl", processor), dataset, "assistant")


# ---- batches ---------------------------------------------------------------------------------------------------------


@each_batching
@pytest.mark.parametrize("labels", ["assistant", "all_text"])
@each_family
def test_each_part_has_its_own_tokens(tiny, samples, model_type, labels, batching):
    """Student labels of a conversation are those of the sample alone; the rest is the teacher's."""
    processor = tiny(model_type)[1]
    encoder = encoder_of(model_type, processor, num_examples=2)
    targets = Collator(encoder, labels, batching)(taught(samples))["targets"]
    encoded = [encoder.sample(sample) for sample in taught(samples)]
    expected = {STUDENT: 0, TEACHER: 0}
    for one in encoded:
        begin = one.answer_spans[-2][1]
        for position in range(1, len(one)):
            learned = labels == "all_text" or any(start <= position < end for start, end in one.answer_spans)
            if labels == "all_text":  # an image and its two marks are never learned
                learned = not one.vision_mask[max(0, position - 1) : position + 2].any()
            expected[TEACHER if position < begin else STUDENT] += learned
    assert {name: int(count) for name, count in language.counts(targets).items()} == expected
    assert targets["is_example"].shape == targets["labels"].shape
    found = targets["labels"][~targets["is_example"]]
    alone = Collator(encoder_of(model_type, processor), "assistant", batching)(samples)["targets"]["labels"]
    if labels == "assistant":
        assert torch.equal(found[found != IGNORED], alone[alone != IGNORED])


def test_without_examples_a_batch_is_as_before(tiny, samples):
    batch = Collator(encoder_of("qwen2_vl", tiny("qwen2_vl")[1]))(samples)
    assert batch["targets"].keys() == {"labels", "label_columns", "num_labels", "sample_ids", "grids"}
    assert language.counts(batch["targets"]).keys() == {"language"}


def terms_and_gradients(model, batches, weights) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    objective = Objective(language=weights)
    model.zero_grad()
    each = [objective.counts(batch["targets"]) for batch in batches]
    counts = {name: torch.tensor(sum(int(one[name]) for one in each)) for name in each[0]}
    terms = dict.fromkeys(counts, 0.0)
    for batch in batches:
        logits = model(**batch["inputs"], **language.forward_options(batch["targets"]), use_cache=False).logits
        sums = objective.sums(logits, None, model.get_input_embeddings().weight, batch["targets"])
        objective.share(sums, counts).backward()
        terms = {name: terms[name] + float(sums[name].detach() / counts[name]) for name in terms}
    return terms, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parity
@each_family
def test_batching_changes_neither_terms_nor_gradients(tiny, samples, model_type):
    """One by one, padded and packed, each conversation of three images; fp32 sums in another order."""
    model, processor = tiny(model_type)
    model, weights = copy.deepcopy(model), language.LanguageLossConfig(1.0, 0.5)
    encoder, rows = encoder_of(model_type, processor, num_examples=2), taught(samples)
    terms, expected = terms_and_gradients(model, [Collator(encoder)([row]) for row in rows], weights)
    assert terms.keys() == {STUDENT, TEACHER}
    for batching in ("padded", "packed"):
        found, gradients = terms_and_gradients(model, [Collator(encoder, batching=batching)(rows)], weights)
        assert found == pytest.approx(terms, rel=1e-5)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            largest = max(float(expected[name].abs().max()), 1e-3)
            assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-5 * largest), (batching, name)


@each_batching
@pytest.mark.parametrize("model_type", [name for name in FAMILIES if not name.endswith("moe")])
def test_halves_add_up(model_type, batching, samples):
    model, processor, head = with_head(model_type)
    objective = Objective(head)
    encoder = encoder_of(model_type, processor, num_examples=2)
    batch = Collator(encoder, batching=batching, objects=ObjectTargets(processor, head.config))(taught(samples))
    parts = [quarter for half in halves(batch) for quarter in (halves(half) if num_samples(half) > 1 else (half,))]
    whole, found = sums_of(model, objective, batch), [sums_of(model, objective, part) for part in parts]
    assert {STUDENT, TEACHER, "box_l1"} <= whole.keys()
    for name, expected in whole.items():
        assert float(sum(part[name] for part in found)) == pytest.approx(float(expected), rel=2e-4, abs=1e-4), name
    counts = [objective.counts(part["targets"]) for part in parts]
    for name, expected in objective.counts(batch["targets"]).items():
        assert sum(int(count[name]) for count in counts) == int(expected), name


# ---- the head --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def memory_of(model, batch):
    with tapped(model) as features:
        model(**batch["inputs"], use_cache=False)
    return gather_memory(*features.both, batch["targets"]["detection"]["memory"])


@each_batching
@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_head_sees_the_last_image_only(samples, model_type, batching):
    """What an example shows reaches it by the language model's states alone, and its boxes are those of the sample."""
    model, processor, head = with_head(model_type)
    encoder = encoder_of(model_type, processor, num_examples=1)
    collator = Collator(encoder, batching=batching, objects=ObjectTargets(processor, head.config))
    plain = Collator(encoder_of(model_type, processor), batching=batching, objects=collator.objects)
    rows = taught(samples, 1)
    height, width = rows[0].examples[0].image_hw
    other = Sample("other", picture(height, width, 9), rows[0].examples[0].detections, "")
    changed = [dataclasses.replace(rows[0], examples=(other,)), *rows[1:]]
    alone, first, second = plain(samples), collator(rows), collator(changed)
    memories = [memory_of(model, batch) for batch in (alone, first, second)]
    for memory in memories[1:]:
        torch.testing.assert_close(memory.vision, memories[0].vision, atol=1e-5, rtol=0)
        assert torch.equal(memory.centres_xy, memories[0].centres_xy)
        assert torch.equal(memory.image_mask, memories[0].image_mask)
    assert not torch.allclose(memories[1].image[0], memories[2].image[0], atol=1e-4)  # the language model has looked
    torch.testing.assert_close(memories[1].image[1:], memories[2].image[1:], atol=1e-5, rtol=0)
    for name in ("boxes_cxcywh", "image", "tokens"):
        made = (batch["targets"]["detection"]["objects"][name] for batch in (alone, first))
        assert torch.equal(*made)


def test_an_example_without_boxes_says_so(tiny, samples):
    encoder = encoder_of("qwen3_vl", tiny("qwen3_vl")[1], num_examples=1)
    row = SampleWithExamples("a", samples[0].image, samples[0].detections, "", (samples[1],))
    encoded = encoder.sample(row)
    assert text_of(encoder, encoded, encoded.answer_spans[0]).startswith("[]")
    assert len(Detections.empty()) == len(samples[1].detections)
