"""Boxes by a detection head: of one forward pass, alone or with the text, and learned by heart together with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from boxtune.collators.batch import pad
from boxtune.collators.objects import memory_of
from boxtune.data.dataset import load_dataset
from boxtune.detections import Detections
from boxtune.errors import ConfigError
from boxtune.evaluation.evaluate import evaluate
from boxtune.inference.detector import Detector, load_detector
from boxtune.inference.fusion import fuse
from boxtune.inference.head_decoding import CONFIDENT, split_confident
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.memory import gather_memory
from boxtune.models.detection_head.results import found_objects
from boxtune.models.detection_head.tap import tapped
from boxtune.models.families import FAMILIES
from collators.conversations import LABELS
from training.runs import short_run, write_coco

each_family = pytest.mark.parametrize("model_type", FAMILIES)


def with_head(detector: Detector, decoder: str = "head", language_layers: int | None = None, **options) -> Detector:
    """A detector with a new head, which finds nothing of use, but finds something."""
    loaded = detector.loaded
    text = loaded.model.config.get_text_config()
    torch.manual_seed(0)
    sizes = {"num_queries": 5, "dropout": 0.3, "language_layers": language_layers}
    head = DetectionHead(fitted_to(text, loaded.processor.tokenizer.eos_token_id, **sizes)).eval()
    options = {"labels": LABELS, "max_new_tokens": 120, "decoder": decoder, **options}
    return Detector(dataclasses.replace(loaded, head=head), **options)


def everything(predictions) -> list[Detections]:
    return [one.result.detections.joined(one.candidates) for one in predictions]


@each_family
def test_batches_change_nothing_and_nothing_is_generated(taught, samples, model_type, monkeypatch):
    images = [sample.image for sample in samples]
    detectors = [with_head(taught(model_type), batch_size=size) for size in (1, 4)]
    monkeypatch.setattr(type(detectors[0].loaded.model), "generate", lambda *_, **__: pytest.fail("it generates"))
    detectors[0]._overlaps = True  # as on a GPU: the next batch is begun before one is finished
    alone, together = (everything(detector.predict(images)) for detector in detectors)
    for one, other, sample in zip(alone, together, samples, strict=True):
        assert len(one) == 5
        assert one.labels == other.labels
        np.testing.assert_allclose(one.xyxy, other.xyxy, atol=1e-2)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        assert (one.xyxy >= 0).all()
        assert (one.xyxy <= np.array([*sample.image_hw[::-1], *sample.image_hw[::-1]])).all()


@pytest.mark.parametrize("layers", [None, 0, 1])
@each_family
def test_it_reads_what_it_was_trained_on(taught, samples, model_type, layers):
    """And no layer behind that is run, where nothing is written."""
    detector = with_head(taught(model_type), language_layers=layers)
    bare, head = detector.loaded.model, detector.loaded.head
    language = bare.model.language_model
    run = []
    watches = [
        layer.register_forward_hook(lambda *_, index=index: run.append(index))
        for index, layer in enumerate(language.layers)
    ]
    found = everything(detector.predict([samples[2].image]))[0]
    for watch in watches:
        watch.remove()
    assert run == list(range(len(language.layers)))[:layers]
    encoded = detector.encoder.question(samples[2].image.convert("RGB"), LABELS, [])
    inputs, _ = pad([encoded], [encoded.input_ids], detector.loaded.processor.tokenizer.pad_token_id)
    with torch.no_grad(), tapped(bare, layers) as features:
        bare(**inputs, use_cache=False)
        index = {
            name: torch.as_tensor(part)
            for name, part in memory_of([encoded], inputs, detector.loaded.processor).items()
        }
        outputs = head(gather_memory(*features.both, index))
    expected = found_objects(
        head,
        outputs,
        [encoded.image_hw],
        bare.get_input_embeddings().weight,
        detector.loaded.processor.tokenizer,
        labels=LABELS,
        min_objectness=0.01,
    )[0]
    np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=1e-2)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.parametrize("layers", [0, 1])
def test_text_and_head_at_different_depths(taught, samples, layers):
    images = [sample.image for sample in samples]
    text, head, both = (
        list(with_head(taught("qwen2_vl"), decoder, layers).predict(images)) for decoder in ("text", "head", "both")
    )
    for of_text, of_head, of_both in zip(text, head, both, strict=True):
        assert of_both.text == of_text.text != ""
        written = of_text.result.detections.joined(of_text.candidates)
        expected = fuse(written, of_head.result.detections.joined(of_head.candidates))
        found = of_both.result.detections.joined(of_both.candidates)
        np.testing.assert_allclose(sorted(map(tuple, found.xyxy)), sorted(map(tuple, expected.xyxy)), atol=1e-2)


def test_what_the_head_is_sure_of_is_its_answer():
    found = Detections([[0, 0, 9, 9]] * 3, ["a"] * 3, [0.9, CONFIDENT, CONFIDENT - 1e-9])
    answer, rest = split_confident(found)
    assert (len(answer), len(rest)) == (2, 1)
    assert answer.joined(rest) == found


def test_both_are_text_and_head_fused(taught, samples):
    images = [sample.image for sample in samples]
    texts, heads, boths = (
        list(with_head(taught("qwen2_vl"), decoder).predict(images)) for decoder in ("text", "head", "both")
    )
    for text, head, both in zip(texts, heads, boths, strict=True):
        assert both.text == text.text != ""
        assert head.text == ""
        assert both.result.status == text.result.status
        written = text.result.detections.joined(text.candidates)
        expected = fuse(written, head.result.detections.joined(head.candidates))
        found = both.result.detections.joined(both.candidates)
        assert sorted(map(tuple, found.xyxy)) == sorted(map(tuple, expected.xyxy))
        assert len(both.result.detections) >= len(text.result.detections)
        assert (both.candidates.scores < CONFIDENT).all() if len(both.candidates) else True


def test_labels_are_chosen_or_written(taught, samples):
    image = [samples[0].image]
    chosen = everything(with_head(taught("qwen2_vl")).predict(image))[0]
    assert set(chosen.labels) <= set(LABELS)
    assert set(everything(with_head(taught("qwen2_vl")).predict(image, ["bottle"]))[0].labels) == {"bottle"}
    written = everything(with_head(taught("qwen2_vl"), free_labels=True).predict(image))[0]
    assert not set(written.labels) & set(LABELS)  # a new head writes no sense


def test_modes_are_put_back_and_dropout_is_off(taught, samples):
    detector = with_head(taught("qwen2_vl"))
    head, model = detector.loaded.head, detector.loaded.model
    head.train()
    model.train()
    images = [samples[0].image] * 2
    first, second = everything(detector.predict(images))
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-5)
    assert all(module.training for module in (*head.modules(), *model.modules()))
    model.eval()  # others use it too


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "head"}, r"decoder=head needs a detection head.*\(taught\) has none.*model\.detection_head=true"),
        ({"decoder": "both"}, "decoder=both needs a detection head"),
        ({"decoder": "heads"}, "Unknown decoder 'heads'. Did you mean 'head'"),
        ({"free_labels": True}, "Free labels are written by the detection head"),
    ],
)
def test_what_cannot_be_asked(taught, options, message):
    with pytest.raises(ConfigError, match=message):
        Detector(taught("qwen2_vl").loaded, **options)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Eight pictures known by heart, to text and head, after one training of both: folder and data."""
    home = tmp_path_factory.mktemp("heart")
    data = write_coco(home / "coco", 8, labels=("box", "red thing"))
    head = ("num_queries=8", "caption_layers=1", "max_label_tokens=8")
    style = ["trainer.max_steps=200", "trainer.learning_rate=3e-3", "trainer.per_device_train_batch_size=8"]
    style += ["evaluation.every=none", "evaluation.max_new_tokens=90", "model.detection_head=true"]
    short_run(data, home / "run", *style, *(f"detection_head.{setting}" for setting in head))
    return home / "run", data


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["text", "head", "both"])
def test_eight_pictures_are_learned_by_heart(learned, decoder):
    folder, data = learned
    metrics = evaluate(load_detector(str(folder), "cpu", decoder=decoder), load_dataset(data))
    assert metrics.map50 == 1.0
    assert metrics.mean_iou > 0.9
    assert metrics.num_predictions == metrics.num_boxes


@pytest.mark.slow
def test_labels_are_known_by_heart_too(learned):
    folder, data = learned
    samples = load_dataset(data)
    detector = load_detector(str(folder), "cpu", decoder="head", free_labels=True)
    for sample, result in zip(samples, detector.detect([sample.image for sample in samples]), strict=True):
        assert sorted(result.detections.labels) == sorted(sample.detections.labels)
