"""The decoders that one loaded model has, so that each question may choose."""

from __future__ import annotations

from typing import get_args

from boxtune.inference.detector import Decoder, Detector


def detector_by_decoder(detector: Detector) -> dict[Decoder, Detector]:
    """The same model asked in each way that it can be: by `text` alone, or by `head` and `both` where it has a head.

    The detectors share their weights: use one of them at a time. The given detector stands for its own decoder.
    """
    names: tuple[Decoder, ...] = get_args(Decoder) if detector.loaded.head is not None else ("text",)
    return {name: detector if name == detector.decoder else _asked_by(detector, name) for name in names}


def _asked_by(detector: Detector, decoder: Decoder) -> Detector:
    return Detector(
        detector.loaded,
        labels=detector.labels,
        batch_size=detector.batch_size,
        max_new_tokens=detector.max_new_tokens,
        calibrator=detector.calibrator,
        num_candidates=detector.num_candidates,
        decoder=decoder,
        owns_model=detector.owns_model,
        compile_after=detector.compile_after,
        examples=detector.examples,
    )
