"""Questions behind worked examples: which are shown, and that answers are those of the model itself."""

from __future__ import annotations

import copy

import pytest
import torch

from boxtune.collators.batch import Collator
from boxtune.collators.objects import ObjectTargets
from boxtune.data.dataset import load_dataset
from boxtune.data.sample import SampleWithExamples
from boxtune.errors import ConfigError, DataError
from boxtune.inference.decoders import detector_by_decoder
from boxtune.inference.detector import Detector
from boxtune.inference.examples import check_examples, examples_note, open_examples
from boxtune.models.contract import default_contract
from boxtune.models.detection_head.memory import gather_memory
from boxtune.models.detection_head.results import found_objects
from boxtune.models.detection_head.tap import tapped
from boxtune.models.families import FAMILIES
from boxtune.models.load import LoadedModel
from collators.conversations import LABELS, encoder_of
from collators.test_parts import with_head
from inference.conftest import overfit

PAINTED = "synthetic:nutrition?n=6&seed=1"


def detector_of(model_type, model, processor, samples, **options) -> Detector:
    loaded = LoadedModel(model, processor, default_contract(model_type, processor), False, "taught", **options)
    return Detector(loaded, labels=LABELS, max_new_tokens=120, batch_size=3, examples=samples[2:4])


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_what_was_taught_behind_examples_is_found_behind_them(tiny, samples, model_type):
    """Three images a question, several questions packed and answered at a time."""
    model, processor = tiny(model_type)
    model = copy.deepcopy(model)
    rows = [SampleWithExamples(s.id, s.image, s.detections, s.source, tuple(samples[2:4])) for s in samples]
    overfit(model, Collator(encoder_of(model_type, processor, num_examples=2))(rows))
    detector = detector_of(model_type, model, processor, samples)
    for sample, result in zip(samples, detector.detect([s.image for s in samples]), strict=True):
        assert result.status == "ok"
        assert list(result.detections.labels) == [
            label for label in detector.labels if label in sample.detections.labels
        ]
        torch.testing.assert_close(
            torch.from_numpy(result.detections.xyxy.copy()).sum(),
            torch.tensor(sample.detections.xyxy.sum()),
            atol=12,
            rtol=0,
        )


@torch.inference_mode()
@pytest.mark.parametrize("model_type", FAMILIES)
def test_answers_are_those_of_generate(tiny, samples, model_type):
    model, processor = tiny(model_type)
    detector = detector_of(model_type, model, processor, samples)
    detector.max_new_tokens = 12
    found = [prediction.text for prediction in detector.predict([s.image for s in samples], num_candidates=0)]
    shown = [detector.encoder.example(one) for one in samples[2:4]]
    for sample, text in zip(samples, found, strict=True):
        asked = detector.encoder.question(sample.image, None, shown)
        assert len(asked.image_grid_thw) == 3
        ids = model.generate(
            input_ids=asked.input_ids[None],
            attention_mask=torch.ones_like(asked.input_ids)[None],
            mm_token_type_ids=asked.vision_mask.int()[None],
            pixel_values=asked.pixel_values,
            image_grid_thw=asked.image_grid_thw,
            max_new_tokens=12,
            do_sample=False,
        )
        written = processor.tokenizer.decode(ids[0, len(asked) :], skip_special_tokens=False)
        assert written.startswith(text) or text.startswith(written.split("<|im_end|>")[0])


@torch.inference_mode()
@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_head_finds_what_it_finds_in_the_padded_batch(samples, model_type):
    model, processor, head = with_head(model_type)
    detector = detector_of(model_type, model, processor, samples, head=head)
    by_head = detector_by_decoder(detector)["head"]
    assert by_head.examples == tuple(samples[2:4])
    found = [one.result.detections.joined(one.candidates) for one in by_head.predict([s.image for s in samples])]
    rows = [SampleWithExamples(s.id, s.image, s.detections, s.source, tuple(samples[2:4])) for s in samples]
    encoder = encoder_of(model_type, processor, num_examples=2)
    batch = Collator(encoder, objects=ObjectTargets(processor, head.config))(rows)
    with tapped(model) as features:
        model(**batch["inputs"], use_cache=False)
    outputs = head(gather_memory(*features.both, batch["targets"]["detection"]["memory"]))
    expected = found_objects(
        head,
        outputs,
        [s.image_hw for s in samples],
        model.get_input_embeddings().weight,
        processor.tokenizer,
        labels=LABELS,
        min_objectness=0.01,
    )
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other) > 0
        torch.testing.assert_close(
            torch.from_numpy(one.xyxy.copy()).sort(0).values,
            torch.from_numpy(other.xyxy.copy()).sort(0).values,
            atol=0.02,
            rtol=0,
        )


def test_examples_are_always_the_same_ones():
    first = open_examples(2, PAINTED)
    assert [one.id for one in first] == [one.id for one in open_examples(2, PAINTED)]
    train = {one.id for one in load_dataset(PAINTED, "train")}
    assert {one.id for one in first} <= train
    assert any(
        [one.id for one in open_examples(2, PAINTED, seed=seed)] != [one.id for one in first] for seed in (1, 2, 3)
    )
    assert open_examples(0, None) == []


@pytest.mark.parametrize(("number", "data"), [(2, None), (0, PAINTED)])
def test_a_number_and_a_data_set_go_together(number, data):
    with pytest.raises(ConfigError, match="go together"):
        open_examples(number, data)


def test_answers_of_judged_images_are_not_shown():
    with pytest.raises(DataError, match="answers of the images that are judged"):
        open_examples(1, PAINTED, judged=(PAINTED, load_dataset(PAINTED, "train")))
    assert len(open_examples(1, PAINTED, judged=(PAINTED, load_dataset(PAINTED, "val")))) == 1
    with pytest.raises(DataError, match=r"--examples 99 is more than the \d+ images"):
        open_examples(99, PAINTED)


def test_examples_of_something_else_are_refused(samples):
    check_examples(samples, ["red cell", "cat"])
    check_examples([samples[1]], ["cat"])  # no box at all
    check_examples([], ["cat"])
    with pytest.raises(DataError, match="The examples show red cell, table, and the model is asked for cat"):
        check_examples(samples, ["cat"])


def test_another_number_than_in_training_is_said(tiny, samples):
    model, processor = tiny("qwen2_vl")
    detector = detector_of("qwen2_vl", model, processor, samples)
    assert examples_note(detector) == "Worked examples before each question: 2; the model was trained with none."
    assert examples_note(Detector(detector.loaded, labels=LABELS)) is None
