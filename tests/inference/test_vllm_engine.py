"""Through vLLM the same questions get the same results; a stand-in answers where there is none."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from boxtune.errors import ConfigError, ModelError
from boxtune.inference.calibrator import Calibrator
from boxtune.inference.detector import load_detector
from boxtune.inference.vllm_engine import load_vllm_detector
from boxtune.models.bases import named_base
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from boxtune.models.detection_head.saving import save_head
from boxtune.models.families import FAMILIES
from boxtune.models.load import load_model
from boxtune.models.places import embedded_folder
from collators.conversations import LABELS
from inference import vllm_stand_in

each_family = pytest.mark.parametrize("model_type", FAMILIES)


@pytest.fixture
def vllm(monkeypatch):
    """The stand-in, in the place of the package."""
    made = vllm_stand_in.module()
    monkeypatch.setitem(sys.modules, "vllm", made)
    return made


@pytest.fixture(scope="module")
def folder(taught, tmp_path_factory):
    """model type → folder of a model that knows `samples`, as `boxtune merge` writes it."""
    home = tmp_path_factory.mktemp("taught")

    def saved(model_type: str):
        place = home / model_type
        if not place.exists():
            loaded = taught(model_type).loaded
            loaded.model.save_pretrained(place)
            loaded.processor.save_pretrained(place)
            dataclasses.replace(loaded.contract, labels=LABELS, max_new_tokens=120).save(place)
        return place

    return saved


@pytest.fixture
def images(samples):
    return [sample.image for sample in samples]


def same(ours, theirs) -> None:
    """Two predictions of one image."""
    assert theirs.text == ours.text
    assert theirs.truncated == ours.truncated
    assert (theirs.result.status, theirs.result.reason) == (ours.result.status, ours.result.reason)
    assert theirs.result.detections.labels == ours.result.detections.labels
    assert np.array_equal(theirs.result.detections.xyxy, ours.result.detections.xyxy)
    assert np.allclose(theirs.result.detections.scores, ours.result.detections.scores, rtol=0, atol=1e-4)
    assert theirs.answer.char_spans == ours.answer.char_spans
    assert np.allclose(theirs.answer.log_probs, ours.answer.log_probs, rtol=0, atol=1e-4)
    assert len(theirs.candidates) == 0


@each_family
def test_results_are_those_of_the_detector(vllm, folder, images, model_type):
    place = str(folder(model_type))
    ours = list(load_detector(place, "cpu").predict(images, num_candidates=0))
    theirs = list(load_vllm_detector(place, dtype="float32", batch_size=2).predict(images))
    assert sum(len(one.result.detections) for one in theirs) == 4
    for one, other in zip(ours, theirs, strict=True):
        same(one, other)


def test_what_vllm_is_told(vllm, folder, images):
    place = folder("qwen2_5_vl")
    detector = load_vllm_detector(str(place), batch_size=3)
    (llm,) = vllm.LLM.made
    size = json.loads((place / "processor_config.json").read_text())["image_processor"]["size"]
    assert llm.mm_processor_kwargs == {"size": size}
    assert llm.limit_mm_per_prompt == {"image": 1, "video": 0}
    assert (llm.max_num_seqs, llm.dtype) == (3, "bfloat16")
    assert detector.labels == LABELS
    assert (detector.decoder, detector.score_source) == ("text", "token probabilities")
    assert detector.untaught_labels is None


def test_predictions_come_while_images_are_still_read(vllm, folder, images):
    detector = load_vllm_detector(str(folder("qwen2_vl")), dtype="float32", batch_size=1, max_new_tokens=2)
    read = []

    def stream():
        for image in images * 5:
            read.append(image)
            yield image

    next(detector.predict(stream()))
    assert len(read) < 5 * len(images)
    assert len(list(detector.predict(images * 3))) == 3 * len(images)
    assert max(vllm.LLM.made[0].calls) == 4


def test_other_labels_are_asked_for_and_noted(vllm, folder, images):
    place = str(folder("qwen2_5_vl"))
    detector = load_vllm_detector(place, dtype="float32", labels=["table", "cup"])
    assert "was not taught cup" in detector.untaught_labels
    ours = load_detector(place, "cpu", labels=["table", "cup"]).predict(images[:1], num_candidates=0)
    same(next(ours), next(detector.predict(images[:1])))
    asked = load_vllm_detector(place, dtype="float32").predict(images[:1], ["cup"])
    same(next(load_detector(place, "cpu").predict(images[:1], ["cup"], num_candidates=0)), next(asked))


def test_cut_answer_is_said_to_be_cut(vllm, folder, images):
    place = str(folder("qwen2_5_vl"))
    (cut,) = load_vllm_detector(place, dtype="float32", max_new_tokens=5).predict(images[:1])
    assert cut.truncated
    assert cut.result.status == "malformed"


def test_an_image_is_taken_as_it_stands(vllm, folder, images):
    """vLLM turns images by the orientation in their tags; here an image is upright once it is handed over."""
    turned = images[0].copy()
    turned.getexif()[0x0112] = 6  # to be turned by a quarter
    others = [Image.new(mode, (60, 60)) for mode in ("L", "1", "RGBA", "CMYK", "P", "LA")]
    place = str(folder("qwen2_5_vl"))
    ours = load_detector(place, "cpu").predict([turned, *others], num_candidates=0)
    theirs = load_vllm_detector(place, dtype="float32").predict([turned, *others])
    for one, other in zip(ours, theirs, strict=True):
        same(one, other)


def test_scores_are_calibrated(vllm, folder, images):
    place = str(folder("qwen2_vl"))
    calibrator = Calibrator("temperature", temperature=3.0)
    ours = load_detector(place, "cpu", calibrator=calibrator).predict(images, num_candidates=0)
    detector = load_vllm_detector(place, dtype="float32", calibrator=calibrator)
    for one, other in zip(ours, detector.predict(images), strict=True):
        same(one, other)
    assert detector.score_source == "token probabilities, calibrated"


def test_a_detection_head_is_left_out(vllm, folder, images, tmp_path):
    """vLLM loads every safetensors file of a folder."""
    place = shutil.copytree(folder("qwen3_vl"), tmp_path / "with_head")
    (place / "detection_head.json").write_text("{}")
    save_file({"queries.weight": torch.zeros(2)}, place / "detection_head.safetensors")
    with pytest.raises(ValueError, match=r"queries\.weight"):
        vllm.LLM(str(place), dtype="float32")
    (prediction,) = load_vllm_detector(str(place), dtype="float32").predict(images[:1])
    assert prediction.result.status == "ok"


def test_a_head_that_was_trained_alone_writes_what_its_base_writes(vllm, folder, images, tmp_path):
    base = str(folder("qwen3_vl"))
    loaded = load_model(base)
    loaded.processor.save_pretrained(tmp_path / "head")
    save_head(
        DetectionHead(fitted_to(loaded.model.config.get_text_config(), 0, width=32, caption_layers=1)),
        tmp_path / "head",
    )
    contract = dataclasses.replace(loaded.contract, labels=LABELS[:1], base_of_head=named_base(base))
    contract.save(tmp_path / "head")
    place = str(tmp_path / "head")
    ours = load_detector(place, "cpu").predict(images, num_candidates=0)
    for one, other in zip(ours, load_vllm_detector(place, dtype="float32").predict(images), strict=True):
        same(one, other)
    dataclasses.replace(contract, base_of_head={"name": base, "weights": "others"}).save(tmp_path / "head")
    with pytest.raises(ModelError, match="are not those that the detection head"):
        load_vllm_detector(place)


def test_another_reading_of_the_image_is_refused(vllm, folder, images):
    detector = load_vllm_detector(str(folder("qwen2_vl")), dtype="float32")
    vllm.LLM.made[0].mm_processor_kwargs = {"size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}}
    with pytest.raises(ModelError, match=r"read a question of \d+ tokens where \d+ were meant"):
        list(detector.predict(images))


def test_an_answer_without_an_end_is_refused(vllm, folder, images, monkeypatch):
    detector = load_vllm_detector(str(folder("qwen2_vl")), dtype="float32")
    answer = vllm.LLM._answer

    def aborted(self, *arguments):
        output = answer(self, *arguments)
        output.outputs[0].finish_reason = "abort"
        return output

    monkeypatch.setattr(vllm.LLM, "_answer", aborted)
    with pytest.raises(ModelError, match=r"not finished an answer \(abort\)"):
        list(detector.predict(images))


def test_what_vllm_cannot_do_is_refused(vllm, folder, images, tmp_path):
    place = folder("qwen2_vl")
    detector = load_vllm_detector(str(place), dtype="float32")
    with pytest.raises(ConfigError, match="ask for 0 candidates"):
        list(detector.predict(images, num_candidates=5))
    with pytest.raises(ConfigError, match="--labels a,b"):
        list(detector.predict(images, []))
    with pytest.raises(ModelError, match="made up while it is loaded"):
        load_vllm_detector("tiny:qwen2_vl")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(place)}))
    with pytest.raises(ModelError, match=r"is an adapter: merge it first, boxtune merge --adapter"):
        load_vllm_detector(str(tmp_path))
    with pytest.raises(ModelError, match="No model at"):
        load_vllm_detector(str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["embedded", str(embedded_folder())])
def test_a_vision_tower_that_vllm_computes_otherwise_is_refused(vllm, name):
    with pytest.raises(ModelError, match="rope_theta=100, and vLLM knows only 10000"):
        load_vllm_detector(name)


def test_other_pixel_limits_than_in_training_are_refused(vllm, folder, tmp_path):
    place = shutil.copytree(folder("qwen2_vl"), tmp_path / "changed")
    config = json.loads((place / "processor_config.json").read_text())
    config["image_processor"]["size"]["longest_edge"] *= 2
    (place / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="boxes would be shifted"):
        load_vllm_detector(str(place))


def test_without_vllm_the_remedy_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install vllm .* needs a GPU"):
        load_vllm_detector(str(folder("qwen2_vl")))


def test_errors_of_vllm_are_told_in_one_line(vllm, folder, monkeypatch):
    def fail(self, *arguments, **options):
        raise RuntimeError("Engine core initialization failed.\nSee root cause above.\n\nmore")

    monkeypatch.setattr(vllm.LLM, "__init__", fail)
    with pytest.raises(ModelError, match=r"^vLLM cannot open .*: Engine core initialization failed\. See root cause"):
        load_vllm_detector(str(folder("qwen2_vl")))


def test_stand_in_has_the_real_face():
    """Where vLLM is installed."""
    pytest.importorskip("vllm")
    from vllm import LLM, SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput

    def names(function) -> set[str]:
        return set(inspect.signature(function).parameters) - {"self", "kwargs"}

    engine = {field.name for field in dataclasses.fields(EngineArgs)}
    assert names(vllm_stand_in.LLM.__init__) <= names(LLM.__init__) | engine
    assert names(vllm_stand_in.LLM.generate) <= names(LLM.generate)
    assert names(vllm_stand_in.SamplingParams) <= set(SamplingParams.__struct_fields__)
    for stand_in, real in (
        (vllm_stand_in.Logprob, Logprob),
        (vllm_stand_in.CompletionOutput, CompletionOutput),
        (vllm_stand_in.RequestOutput, RequestOutput),
    ):
        assert names(stand_in) <= names(real)
