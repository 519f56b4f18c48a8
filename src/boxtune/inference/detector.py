"""Images in, boxes with scores out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from PIL import Image

from boxtune.collators.encode import EncodedSample, SampleEncoder
from boxtune.data.images import as_rgb
from boxtune.data.sample import Sample
from boxtune.detections import Detections
from boxtune.errors import ConfigError, nearest
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.ahead import ahead, one_behind
from boxtune.inference.calibrator import Calibrator, read_calibrator
from boxtune.inference.candidates import NUM_CANDIDATES
from boxtune.inference.fusion import seen, together
from boxtune.inference.head_decoding import Looked, look, objects_in, split_confident
from boxtune.inference.language_pass import Read, read_questions
from boxtune.inference.prediction import (
    Prediction,
    asked_labels,
    checked_images,
    checked_labels,
    made_out,
    question_style,
)
from boxtune.inference.slots import num_slots_for
from boxtune.inference.steps import Steps
from boxtune.inference.writing import Writer, stop_ids
from boxtune.models.attention import (
    AttentionChoice,
    attention_names,
    choose_for_questions,
    has_sliding_window,
    use_attention,
)
from boxtune.models.bare import bare_model
from boxtune.models.compile import compile_blocks
from boxtune.models.devices import autocast_for, pick_device
from boxtune.models.load import LoadedModel, load_model
from boxtune.models.padding import pad_vision_mlps
from boxtune.models.patch_product import multiply_patches
from boxtune.models.quantize import Quantize

Decoder = Literal["text", "head", "both"]
COMPILE_AFTER: Final = 200
"""Answers of a model on a GPU after which compiling has paid for itself."""


class Detector:
    """A model with everything it must be asked with: processor, prompt, coordinates, limits.

    Args:
        loaded: model, processor and contract.
        labels: names to look for where a call gives none; the contract's by default.
        batch_size: images a forward pass. On a GPU up to four times as many answers are written at a time, as far as
            there is room for them; of batches of one, one after the other.
        max_new_tokens: longest answer; the contract's by default.
        calibrator: makes scores mean what they say; None leaves them as they are.
        num_candidates: boxes that `predict` asks for after the end of each answer, for AP; 0 saves their time.
        decoder: who names the boxes: the `text` that the model writes, its detection `head` in one forward pass, or
            `both`, fused (see `fusion`).
        free_labels: let the head write labels, instead of choosing among those that are asked for.
        owns_model: nobody else changes the model, so that what is prepared for one call serves the next.
        compile_after: answers after which the model's blocks are compiled; None leaves them as they are.
        examples: shown with their answers before each question.

    Raises:
        ConfigError: the head is asked for and there is none, or `free_labels` without it; a number out of its range.
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
        decoder: Decoder = "text",
        free_labels: bool = False,
        owns_model: bool = False,
        compile_after: int | None = None,
        examples: Sequence[Sample] = (),
    ) -> None:
        contract = loaded.contract
        _check_decoder(decoder, loaded, free_labels)
        _check_at_least(1, batch_size=batch_size, max_new_tokens=max_new_tokens)
        _check_at_least(0, num_candidates=num_candidates)
        self.loaded, self.decoder, self.free_labels = loaded, decoder, free_labels
        self.calibrator = calibrator
        self.owns_model, self.compile_after = owns_model, compile_after
        self._spare: list[Steps] = []
        self._num_answered = 0
        self.labels = contract.labels if labels is None else checked_labels(labels)
        self.batch_size = batch_size
        self.num_candidates = num_candidates
        self.max_new_tokens = max_new_tokens or contract.max_new_tokens
        on_gpu = loaded.model.device.type == "cuda"
        self._num_ahead = batch_size if on_gpu else 0  # a CPU has no time to spare
        self._overlaps = on_gpu and owns_model
        self.style = question_style(contract, self.labels)
        self.encoder = SampleEncoder(loaded.processor, self.style)
        self.examples, self._encoded_examples = tuple(examples), [self.encoder.example(one) for one in examples]

    def detect(self, images: Sequence[Image.Image], labels: Sequence[str] | None = None) -> list[DecodeResult]:
        """Boxes with scores for each image, in order.

        Args:
            images: upright, any mode; what is transparent is seen on white, as in files.
            labels: names to look for, instead of the detector's own.

        Raises:
            ConfigError: no labels are known, or what is given is no list of names.
            DataError: no list of images with pixels.
        """
        return [prediction.result for prediction in self.predict(images, labels, num_candidates=0)]

    def predict(
        self, images: Iterable[Image.Image], labels: Sequence[str] | None = None, *, num_candidates: int | None = None
    ) -> Iterator[Prediction]:
        """As `detect`, one by one as batches are done, with the raw text and candidates."""
        num_candidates = self.num_candidates if num_candidates is None else num_candidates
        asked = asked_labels(labels, self.labels)
        questions = ahead(checked_images(images), lambda image: self._question(image, asked), self._num_ahead)
        if self.decoder == "head":
            yield from self._looked_at(questions, asked)
        else:
            yield from self._written(questions, asked, num_candidates)

    def compile(self) -> None:
        """Have the model's blocks compiled from the next step on: some ten seconds once, and a third less for each
        image then.
        """
        self.compile_after = None
        compile_blocks(self.loaded.model)
        for steps in self._spare:
            steps.forget()

    @property
    def score_source(self) -> str:
        """Where scores come from, in words."""
        text = "token probabilities" + (", calibrated" if self.calibrator is not None else "")
        head = "objectness and label of the detection head"
        return {"text": text, "head": head, "both": f"{text}, fused with {head}"}[self.decoder]

    @property
    def untaught_labels(self) -> str | None:
        """A sentence where labels are asked for that the model was not trained on."""
        return self.loaded.contract.untaught(self.labels)

    def _question(self, image: Image.Image, labels: tuple[str, ...]) -> EncodedSample:
        question = self.encoder.question(as_rgb(image), labels, self._encoded_examples)
        # the tower rounds pixels to its own dtype first of all; done here, half as much travels. From pinned memory it
        # travels when the batch is put together: a copy by this thread would wait for all that the GPU is to do before
        tower = self._bare.model.visual
        pixels = question.pixel_values.to(tower.dtype)
        return replace(question, pixel_values=pixels.pin_memory() if tower.device.type == "cuda" else pixels)

    @property
    def _bare(self) -> Any:
        model = self.loaded.model
        return bare_model(model)

    @property
    def _tap(self) -> int | None:
        head = self.loaded.head
        return None if head is None or self.decoder == "text" else head.config.language_layers

    def _objects(self, looked: Looked, labels: tuple[str, ...]) -> list[Detections]:
        """What the head has found in a batch."""
        return objects_in(self.loaded, looked, None if self.free_labels else labels)

    def _looked_at(self, questions: Iterator[EncodedSample], labels: tuple[str, ...]) -> Iterator[Prediction]:
        """What the head finds, and nothing is written. A GPU is given the next batch before it is asked about one,
        unless others may change the model in between.
        """

        def begin(batch: list[EncodedSample]) -> Looked:
            with self._asking(), torch.inference_mode():
                return look(self.loaded, batch, read_questions(self._bare, batch, tap=self._tap, to_the_end=False))

        def finish(looked: Looked) -> list[Prediction]:
            with self._asking():
                return [seen(*split_confident(boxes)) for boxes in self._objects(looked, labels)]

        batches = iter(lambda: list(islice(questions, self.batch_size)), [])
        in_turn = (finish(begin(batch)) for batch in batches)
        for predictions in one_behind(batches, begin, finish) if self._overlaps else in_turn:
            yield from predictions

    def _written(
        self, questions: Iterator[EncodedSample], labels: tuple[str, ...], num_candidates: int
    ) -> Iterator[Prediction]:
        model, tokenizer = self.loaded.model, self.loaded.processor.tokenizer

        def seen_as_well(encoded: Sequence[EncodedSample], read: Read) -> list[Detections]:
            return self._objects(look(self.loaded, encoded, read), labels)

        with self._steps(labels) as steps:
            writer = Writer(
                steps,
                stop_ids(model, tokenizer),
                tokenizer,
                self.style.codec.form,
                questions,
                at_once=self.batch_size,
                max_new_tokens=self.max_new_tokens,
                num_candidates=num_candidates,
                look=seen_as_well if self.decoder == "both" else None,
            )
            while True:
                with self._asking():
                    ready = writer.advance()
                if not ready:
                    return
                for sample, answer, found in ready:
                    text = made_out(answer, self.style.codec, sample.image_hw, sample.input_hw, labels, self.calibrator)
                    yield text if found is None else together(text, found)
                self._num_answered += len(ready)
                if self.compile_after is not None and self._num_answered >= self.compile_after:
                    self.compile()
                    steps.forget()

    @contextmanager
    def _steps(self, labels: tuple[str, ...]) -> Iterator[Steps]:
        """Slots that nobody else writes in; kept with their recorded steps where the model is our own."""
        model, on_gpu = self.loaded.model, self.loaded.model.device.type == "cuda"
        try:
            steps = self._spare.pop()
        except IndexError:  # asked for first, another thread might take it in between
            steps = None
        if steps is None:
            with torch.inference_mode():
                dtype = torch.bfloat16 if on_gpu else model.dtype
                steps = Steps(model, self._num_slots(labels, dtype), dtype, graphs=on_gpu, tap=self._tap)
        try:
            yield steps
        except GeneratorExit:  # a stream that is left in its middle; any other error may have struck within a step
            with torch.inference_mode():
                steps.memory.wipe()  # an answer that came to nothing may have been under way
            self._keep(steps)
            raise
        self._keep(steps)

    def _num_slots(self, labels: tuple[str, ...], dtype: torch.dtype) -> int:
        """Answers at a time: on a GPU more than questions a pass, as far as its memory goes."""
        if self.loaded.model.device.type != "cuda" or self.batch_size == 1:
            return self.batch_size
        return num_slots_for(self._bare, self._longest(labels) + self.max_new_tokens, dtype, self.batch_size)

    def _longest(self, labels: tuple[str, ...]) -> int:
        """Tokens of a question about the largest picture."""
        side = math.isqrt(self.loaded.contract.max_pixels)
        return len(self.encoder.question(Image.new("RGB", (side, side)), labels, self._encoded_examples))

    def _keep(self, steps: Steps) -> None:
        if self.owns_model and not self._spare:
            self._spare.append(steps)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """The model as it is asked: in evaluation mode, with the fastest attention that reads packed questions.

        What was set before is put back, and that between any two answers: whoever takes them may train the model or
        ask it something else before the next.
        """
        bare = self._bare
        before = attention_names(bare)
        use_attention(bare, self.attention)
        try:
            with _evaluation_mode(self.loaded.model, self.loaded.head):
                yield
        finally:
            if attention_names(bare) != before:
                bare.set_attn_implementation(before)

    @cached_property
    def attention(self) -> AttentionChoice:
        """What attends where while questions are read."""
        model = self.loaded.model
        bf16 = model.device.type == "cuda" or model.dtype == torch.bfloat16
        return choose_for_questions(model.device, bf16=bf16, looks_back=has_sliding_window(model.config))


def _check_decoder(decoder: Decoder, loaded: LoadedModel, free_labels: bool) -> None:
    if decoder not in get_args(Decoder):
        raise ConfigError(f"Unknown decoder '{decoder}'. {nearest(str(decoder), get_args(Decoder))}")
    if decoder != "text" and loaded.head is None:
        raise ConfigError(
            f"decoder={decoder} needs a detection head, and this model ({loaded.base}) has none: train one by "
            "model.detection_head=true, or use the text decoder."
        )
    if free_labels and decoder == "text":
        raise ConfigError("Free labels are written by the detection head: set the decoder to head or both.")


def _check_at_least(least: int, **numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < least:
            raise ConfigError(f"{name}={number} of a detector: give {least} or more.")


@contextmanager
def _evaluation_mode(*parts: Any) -> Iterator[None]:
    """Dropout off, and bf16 where the device likes it; the mode of every part is put back."""
    modules = [module for part in parts if part is not None for module in part.modules()]
    in_training = [module for module in modules if module.training]
    for module in modules:
        module.training = False
    try:
        with autocast_for(parts[0].device):
            yield
    finally:
        for module in in_training:
            module.training = True


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
    return own_detector(loaded, **{"calibrator": calibrator, **options})


def own_detector(loaded: LoadedModel, **options: Any) -> Detector:
    """A detector with a model that nobody else changes, so that it can be made fast: the same numbers in less time.

    Args:
        loaded: only to be asked from now on.
        options: of `Detector`. On a GPU the blocks are compiled after so many answers as pay for it, unless they are
            of 4 bits, or `compile_after` says something else.
    """
    bare = bare_model(loaded.model)
    bare.requires_grad_(False)
    multiply_patches(bare)
    if bare.device.type == "cuda":
        pad_vision_mlps(bare)
        in_4_bits = getattr(bare, "quantization_method", None) is not None
        options = {"compile_after": None if in_4_bits else COMPILE_AFTER, **options}
    detector = Detector(loaded, owns_model=True, **options)
    use_attention(bare, detector.attention)
    return detector
