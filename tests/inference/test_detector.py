"""Images in, boxes with scores out: with models of each family that have learnt three pictures by heart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from boxtune.collators.batch import pad
from boxtune.collators.encode import SampleEncoder
from boxtune.detections import box_iou
from boxtune.errors import ConfigError, DataError
from boxtune.inference.detector import Detector, load_detector
from boxtune.models.devices import pick_device
from boxtune.models.families import FAMILIES
from collators.conversations import LABELS

each_family = pytest.mark.parametrize("model_type", FAMILIES)


@each_family
def test_finds_what_it_was_taught(taught, samples, model_type):
    results = taught(model_type).detect([sample.image for sample in samples])
    assert len(results) == len(samples)
    for result, sample in zip(results, samples, strict=True):
        assert result.status == "ok"
        found, truth = result.detections, sample.detections
        assert sorted(found.labels) == sorted(truth.labels)
        if len(truth):
            assert box_iou(found.xyxy, truth.xyxy).max(axis=1).min() > 0.9
        assert (found.xyxy >= 0).all()
        assert (found.xyxy <= np.array([*sample.image_hw[::-1], *sample.image_hw[::-1]])).all()
        assert found.scores is not None
        assert ((found.scores > 0.5) & (found.scores <= 1)).all()


@each_family
def test_scores_are_those_of_a_forward_pass_over_the_answer(taught, samples, model_type):
    """Teacher-forced: prompt and answer in one row; p of what opens a box × geometric mean over its other tokens."""
    detector = taught(model_type)
    processor, model = detector.loaded.processor, detector.loaded.model.eval()
    encoder = SampleEncoder(processor, detector.style)
    predictions = list(detector.predict([sample.image for sample in samples]))
    num_scores = 0
    for prediction, sample in zip(predictions, samples, strict=True):
        encoded = encoder.sample(sample)
        (start, end) = encoded.answer_spans[0]
        offsets = processor.tokenizer(prediction.text, return_offsets_mapping=True, add_special_tokens=False)
        assert offsets["input_ids"] == encoded.input_ids[start : end - 2].tolist()
        inputs, _ = pad([encoded], [encoded.input_ids], 0)
        with torch.no_grad():
            log_probs = model(**inputs, use_cache=False).logits[0].log_softmax(-1)
        chosen = log_probs[start - 1 : end - 3].gather(1, encoded.input_ids[start : end - 2, None])[:, 0]
        for span, score in zip(prediction.result.spans, prediction.result.detections.scores, strict=True):
            first, last = span.whole
            opening = [i for i, (a, b) in enumerate(offsets["offset_mapping"]) if a <= first and b > first - 2]
            inside = [i for i, (a, _) in enumerate(offsets["offset_mapping"]) if first < a < last]
            expected = float((chosen[opening].sum() + chosen[inside].mean()).exp())
            assert score == pytest.approx(expected, abs=1e-4)
            num_scores += 1
    assert num_scores == 4


@each_family
def test_batches_answer_as_single_images(taught, samples, model_type):
    images = [sample.image for sample in samples]
    detector = taught(model_type)
    together = detector.detect(images)
    single = [detector.detect([image])[0] for image in images]
    for first, second in zip(together, single, strict=True):
        assert first.detections.labels == second.detections.labels
        assert np.array_equal(first.detections.xyxy, second.detections.xyxy)
        assert np.allclose(first.detections.scores, second.detections.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_keeps_number_and_order(taught, samples, batch_size):
    detector = Detector(taught("qwen3_vl").loaded, labels=LABELS, batch_size=batch_size, max_new_tokens=120)
    predictions = list(detector.predict(sample.image for sample in samples))
    assert [len(p.result.detections) for p in predictions] == [len(sample.detections) for sample in samples]


def test_predictions_come_while_images_are_still_read(taught, samples):
    """A folder of photos is not held in memory."""
    read = []

    def images():
        for sample in samples * 10:
            read.append(sample.id)
            yield sample.image

    detector = Detector(taught("qwen2_vl").loaded, labels=LABELS, batch_size=2, max_new_tokens=4)
    for number, _ in enumerate(detector.predict(images()), start=1):
        assert len(read) <= number + 2 * 2  # those that are written, and as many that were done before their turn


def test_no_images(taught):
    assert taught("qwen2_vl").detect([]) == []


def test_any_image_mode(taught):
    detector = taught("qwen2_5_vl")
    modes = [Image.new(mode, (60, 60)) for mode in ("L", "1", "RGBA", "CMYK", "P", "LA")]
    assert len(detector.detect(modes)) == len(modes)


def test_an_image_is_seen_as_its_file_would_be(taught, samples):
    """Pillow alone shows what is transparent as black, and a scan of 16 bits as white."""
    detector, plain = taught("qwen2_5_vl"), samples[0].image
    pixels = np.asarray(plain)
    seen = detector.predict([plain, Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]))])
    grey = np.asarray(plain.convert("L"))
    deep = detector.predict([Image.fromarray(grey), Image.fromarray(grey.astype(np.uint16) * 257)])
    clear = Image.fromarray(np.dstack([np.zeros_like(pixels), np.zeros(pixels.shape[:2], np.uint8)]))
    blank = detector.predict([Image.new("RGB", plain.size, "white"), clear])
    for two in (seen, deep, blank):
        one, other = (prediction.text for prediction in two)
        assert one == other


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (["photo.jpg"], r"not str 'photo\.jpg': open files by PIL\.Image\.open"),
        ([None], "not NoneType"),
        ([np.zeros((8, 8, 3), np.uint8)], "not ndarray"),
        (Image.new("RGB", (60, 60)), r"give \[image\]"),
        ([Image.new("RGB", (0, 60))], "0×60 px has no pixels"),
        ([Image.new("F", (60, 60))], "of 60×60 px holds decimal numbers"),
    ],
)
def test_what_is_no_list_of_images_is_refused(taught, images, said):
    with pytest.raises(DataError, match=said):
        taught("qwen2_vl").detect(images)


@pytest.mark.parametrize(
    ("labels", "said"),
    [("table", r"'table' are one text"), ([3], "label 3 is no name"), ([], "an empty list is given")],
)
def test_what_is_no_list_of_names_is_refused(taught, samples, labels, said):
    """A text is a list of its letters, and a model looks for those without a word."""
    with pytest.raises(ConfigError, match=said):
        taught("qwen2_vl").detect([samples[0].image], labels)
    if labels:
        with pytest.raises(ConfigError, match=said):
            Detector(taught("qwen2_vl").loaded, labels=labels)


def test_cut_answer_is_said_to_be_cut(taught, samples):
    detector = Detector(taught("qwen2_5_vl").loaded, labels=LABELS, max_new_tokens=5)
    (prediction,) = detector.predict([samples[0].image])
    assert prediction.truncated
    assert prediction.result.status == "malformed"
    assert prediction.result.detections.scores is not None


@pytest.mark.parametrize("was_training", [True, False])
def test_training_mode_is_put_back(taught, samples, was_training):
    detector = taught("qwen2_vl")
    model = detector.loaded.model
    model.train(was_training)
    detector.detect([samples[0].image])
    assert {module.training for module in model.modules()} == {was_training}


def test_parts_in_another_mode_are_put_back_too(taught, samples):
    """A frozen tower that stays in evaluation mode while the rest trains."""
    detector = taught("qwen2_vl")
    model = detector.loaded.model.train()
    model.model.visual.eval()
    modes = [module.training for module in model.modules()]
    detector.detect([samples[0].image])
    assert [module.training for module in model.modules()] == modes


def test_training_mode_is_put_back_after_an_error(taught, samples, monkeypatch):
    detector = taught("qwen2_vl")
    detector.loaded.model.train()

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("boxtune.inference.detector.Writer.advance", fail)
    with pytest.raises(KeyboardInterrupt):
        detector.detect([samples[0].image])
    assert detector.loaded.model.training


def test_no_labels_is_an_error(taught, samples):
    detector = Detector(taught("qwen2_vl").loaded)
    with pytest.raises(ConfigError, match=r"--labels a,b"):
        detector.detect([samples[0].image])


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"max_new_tokens": 0}, {"num_candidates": -1}])
def test_numbers_out_of_range(taught, wrong):
    """No images at a time would find nothing in any image, and say so of none."""
    ((name, number),) = wrong.items()
    with pytest.raises(ConfigError, match=f"{name}={number} of a detector: give"):
        Detector(taught("qwen2_vl").loaded, labels=LABELS, **wrong)


def test_only_known_labels_come_out(taught, samples):
    """The model answers 'table' whatever it is asked for; a label that was not asked for is no result."""
    for result in taught("qwen2_5_vl").detect([samples[0].image], labels=["red cell"]):
        assert set(result.detections.labels) <= {"red cell"}


@pytest.mark.parametrize("device", ["gpu", "nonsense", "cuda:x"])
def test_unknown_device(device):
    with pytest.raises(ConfigError, match=f"Unknown device '{device}'"):
        pick_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_no_gpu_here(device):
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        pick_device(device)
    assert pick_device().type == pick_device("auto").type == "cpu"


def test_load_detector_by_name():
    detector = load_detector("tiny:qwen3_vl", "cpu", labels=["table"], max_new_tokens=3)
    (result,) = detector.detect([Image.new("RGB", (64, 64))])
    assert result.status in ("ok", "repaired", "malformed")
    assert detector.loaded.model.dtype == torch.float32
