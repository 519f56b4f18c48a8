"""One loaded model, asked in each way that it can be."""

from __future__ import annotations

from dataclasses import replace

from boxtune.inference.decoders import detector_by_decoder
from boxtune.inference.detector import Detector
from boxtune.models.detection_head.head import DetectionHead


def test_without_a_head_there_is_the_text(taught):
    detector = taught("qwen2_vl")
    assert detector_by_decoder(detector) == {"text": detector}


def test_with_a_head_each_is_asked_as_the_first_is(taught):
    first = taught("qwen2_vl")
    loaded = replace(first.loaded, head=DetectionHead.__new__(DetectionHead))
    detector = Detector(loaded, labels=["a"], batch_size=3, max_new_tokens=7, num_candidates=0, decoder="head")
    found = detector_by_decoder(detector)
    assert list(found) == ["text", "head", "both"]
    assert found["head"] is detector
    for name, one in found.items():
        assert (one.decoder, one.labels, one.batch_size, one.max_new_tokens) == (name, ("a",), 3, 7)
        assert (one.loaded is loaded, one.num_candidates, one.calibrator) == (True, 0, None)
