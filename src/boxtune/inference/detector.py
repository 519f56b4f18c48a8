"""Images in, boxes with scores out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from boxtune.collators.batch import pad
from boxtune.collators.encode import EncodedSample, SampleEncoder
from boxtune.data.conversation import ConversationStyle
from boxtune.detections import Detections
from boxtune.errors import ConfigError
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.calibrator import Calibrator, read_calibrator
from boxtune.inference.candidates import NUM_CANDIDATES
from boxtune.inference.decoding import Answer, generate
from boxtune.models.load import LoadedModel, load_model
from boxtune.models.quantize import Quantize


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    Attributes:
        result: status, boxes with scores in pixels of the image, reason.
        text: the model's raw answer.
        truncated: whether the token limit ended the answer.
        candidates: boxes that the answer left out, with scores; see `candidates`.
    """

    result: DecodeResult
    text: str
    truncated: bool
    candidates: Detections = field(default_factory=Detections.empty)


class Detector:
    """A model with everything it must be asked with: processor, prompt, coordinates, limits.

    Args:
        loaded: model, processor and contract.
        labels: names to look for where a call gives none; the contract's by default.
        batch_size: images a forward pass.
        max_new_tokens: longest answer; the contract's by default.
        calibrator: makes scores mean what they say; None leaves them as they are.
        num_candidates: boxes that `predict` asks for after the end of each answer, for AP; 0 saves their time.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        labels: Sequence[str] | None = None,
        batch_size: int = 8,
        max_new_tokens: int | None = None,
        calibrator: Calibrator | None = None,
        num_candidates: int = NUM_CANDIDATES,
    ) -> None:
        contract = loaded.contract
        self.loaded = loaded
        self.calibrator = calibrator
        self.labels = tuple(labels) if labels is not None else contract.labels
        self.batch_size = batch_size
        self.num_candidates = num_candidates
        self.max_new_tokens = max_new_tokens or contract.max_new_tokens
        self.style = ConversationStyle(
            loaded.family.codec, self.labels, contract.prompt, contract.system, contract.box_order
        )
        self.encoder = SampleEncoder(loaded.processor, self.style)

    def detect(self, images: Sequence[Image.Image], labels: Sequence[str] | None = None) -> list[DecodeResult]:
        """Boxes with scores for each image, in order.

        Args:
            images: upright, any mode.
            labels: names to look for, instead of the detector's own.

        Raises:
            ConfigError: no labels are known.
        """
        return [prediction.result for prediction in self.predict(images, labels, num_candidates=0)]

    def predict(
        self, images: Iterable[Image.Image], labels: Sequence[str] | None = None, *, num_candidates: int | None = None
    ) -> Iterator[Prediction]:
        """As `detect`, one by one as batches are done, with the raw text and candidates."""
        num_candidates = self.num_candidates if num_candidates is None else num_candidates
        asked = tuple(labels) if labels is not None else self.labels
        if not asked:
            raise ConfigError("No labels to look for: this model was saved with none, name them with --labels a,b.")
        stream = iter(images)
        while batch := list(islice(stream, self.batch_size)):
            yield from self._predict_batch(batch, asked, num_candidates)

    def _predict_batch(
        self, images: Sequence[Image.Image], labels: tuple[str, ...], num_candidates: int
    ) -> list[Prediction]:
        encoded = [self.encoder.question(image.convert("RGB"), labels) for image in images]
        tokenizer = self.loaded.processor.tokenizer
        inputs, _ = pad(encoded, [e.input_ids for e in encoded], tokenizer.pad_token_id, side="left")
        model = self.loaded.model
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        form = self.style.codec.form
        answers = _in_evaluation_mode(
            model, lambda: generate(model, inputs, tokenizer, self.max_new_tokens, form, num_candidates)
        )
        return [self._decode(answer, sample, labels) for answer, sample in zip(answers, encoded, strict=True)]

    def _decode(self, answer: Answer, sample: EncodedSample, labels: tuple[str, ...]) -> Prediction:
        result = self.style.codec.decode(answer.text, sample.image_hw, sample.input_hw, labels)
        found = self._scored(answer, result, sample)
        prediction = Prediction(replace(result, detections=found), answer.text, answer.truncated)
        if answer.continued is None:
            return prediction
        whole = self.style.codec.decode(answer.continued.text, sample.image_hw, sample.input_hw, labels)
        is_candidate = [span.whole[0] >= answer.num_common_chars for span in whole.spans]
        return replace(prediction, candidates=self._scored(answer.continued, whole, sample).select(is_candidate))

    def _scored(self, answer: Answer, result: DecodeResult, sample: EncodedSample) -> Detections:
        scores = np.array([answer.box_score(span) for span in result.spans])
        if self.calibrator is not None:
            scores = self.calibrator.apply(scores)
        return result.detections.clipped(sample.image_hw).with_scores(scores)


def _in_evaluation_mode(model: Any, act: Callable[[], Any]) -> Any:
    """Run with dropout off and under bf16 where the device likes it; the mode of every part is put back."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with autocast_for(model.device):
            return act()
    finally:
        for module in in_training:
            module.training = True


def autocast_for(device: torch.device) -> Any:
    """bf16 arithmetic on GPUs, plain elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def pick_device(wish: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the first GPU, or the CPU; of several processes on a machine each has its own GPU.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if wish in (None, "auto"):
        return _of_process(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = torch.device(wish)  # type: ignore[arg-type]
    except RuntimeError:
        raise ConfigError(f"Unknown device '{wish}': use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"Device '{wish}' asked for, but torch sees no GPU here: use model.device=cpu.")
    return _of_process(device)


def _of_process(device: torch.device) -> torch.device:
    """Of `cuda` without a number, the GPU that torchrun means for this process."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def load_detector(
    model: str,
    device: str | torch.device | None = None,
    *,
    dtype: torch.dtype | None = None,
    quantize: Quantize = "none",
    calibrated: bool = True,
    **options: Any,
) -> Detector:
    """A detector from a folder, a hub id, an adapter folder, `embedded` or `tiny:FAMILY`.

    Args:
        model: name of the model.
        device: None takes a GPU where there is one.
        dtype: of the weights; bf16 on a GPU and fp32 on the CPU by default.
        quantize: `nf4` packs the language model into 4 bits, also that under an adapter.
        calibrated: mend scores by the `calibration.json` of the model's folder, where it has one.
        options: of `Detector`.

    Raises:
        ModelError: no such model; a `calibration.json` that boxtune did not write.
    """
    place = pick_device(device)
    dtype = dtype or (torch.bfloat16 if place.type == "cuda" else torch.float32)
    calibrator = read_calibrator(Path(model)) if calibrated else None
    loaded = load_model(model, dtype=dtype, device=place, quantize=quantize)
    return Detector(loaded, **{"calibrator": calibrator, **options})
