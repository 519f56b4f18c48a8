"""A merged model asked through vLLM: the same questions, the same results.

vLLM (github.com/vllm-project/vllm; Kwon et al. 2023, arXiv 2309.06180) is handed what decides about boxes, and nothing
of it is left to its own defaults: the tokens of the question, the image as it is here, the pixel limits, the stop
tokens, greedy choice. What it read is compared with what was asked. Its answers come back as tokens with their
log-probabilities and are made out as those of `Detector`. Written against the sources of vLLM 0.32 and 0.33
(`entrypoints/llm.py`, `sampling_params.py`, `outputs.py`, `model_executor/models/qwen2_vl.py`).
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from PIL import Image

from boxtune.collators.encode import EncodedSample, SampleEncoder
from boxtune.data.images import as_rgb
from boxtune.errors import ConfigError, ModelError
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.ahead import ahead
from boxtune.inference.calibrator import Calibrator, read_calibrator
from boxtune.inference.decoding import answer_of
from boxtune.inference.prediction import (
    Prediction,
    asked_labels,
    checked_images,
    checked_labels,
    made_out,
    question_style,
)
from boxtune.inference.writing import stops_of
from boxtune.models.bases import base_of_head, check_base
from boxtune.models.contract import Contract, check_pixel_limits, default_contract
from boxtune.models.detection_head.saving import WEIGHTS_FILE, has_head
from boxtune.models.load import check_model
from boxtune.models.places import (
    LOADING_ERRORS,
    TINY,
    base_of_adapter,
    folder_of,
    hub_options,
    in_one_line,
    load_config,
    load_processor,
)

_AT_ONCE: Final = 4
"""Images handed over in one call, for each that is answered at a time: few slots stay free at the end of a call."""
_VISION_ROPE_THETA: Final = 10_000.0
"""What vLLM computes the vision tower's positions with, whatever the configuration says."""


@dataclass(frozen=True)
class _Question:
    """What is asked about one image, and what is needed to read the answer."""

    prompt: dict[str, Any]
    input_ids: list[int]
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]


class VllmDetector:
    """A model behind vLLM, with the face of `Detector` as far as texts go.

    Args:
        llm: `vllm.LLM` of the model.
        processor: of the model, with its pixel limits set.
        contract: how the model must be asked.
        stops: token ids that end a turn.
        labels: names to look for where a call gives none; the contract's by default.
        batch_size: images that are answered at a time; as `llm` was told.
        max_new_tokens: longest answer; the contract's by default.
        calibrator: makes scores mean what they say; None leaves them as they are.
    """

    decoder: Final = "text"

    def __init__(
        self,
        llm: Any,
        processor: Any,
        contract: Contract,
        stops: set[int],
        *,
        labels: Sequence[str] | None = None,
        batch_size: int = 8,
        max_new_tokens: int | None = None,
        calibrator: Calibrator | None = None,
    ) -> None:
        self.llm, self.processor, self.contract, self.stops = llm, processor, contract, stops
        self.labels = contract.labels if labels is None else checked_labels(labels)
        self.batch_size, self.calibrator = batch_size, calibrator
        self.max_new_tokens = max_new_tokens or contract.max_new_tokens
        self.style = question_style(contract, self.labels)
        self.encoder = SampleEncoder(processor, self.style)

    def detect(self, images: Sequence[Image.Image], labels: Sequence[str] | None = None) -> list[DecodeResult]:
        """Boxes with scores for each image, in order; see `Detector.detect`."""
        return [prediction.result for prediction in self.predict(images, labels)]

    def predict(
        self, images: Iterable[Image.Image], labels: Sequence[str] | None = None, *, num_candidates: int | None = None
    ) -> Iterator[Prediction]:
        """As `detect`, one by one as calls of vLLM are done, with the raw text token by token.

        Args:
            images: upright, any mode; what is transparent is seen on white, as in files.
            labels: names to look for, instead of the detector's own.
            num_candidates: must be 0 or left out: vLLM cannot be made to go on where an answer ends.

        Raises:
            ConfigError: no labels are known; candidates are asked for.
            ModelError: vLLM refuses a question, or has read another one than was asked.
        """
        if num_candidates:
            raise ConfigError(
                "vLLM names no boxes after the end of an answer: ask for 0 candidates, or use engine own."
            )
        asked = asked_labels(labels, self.labels)
        questions = ahead(checked_images(images), lambda image: self._question(image, asked), self.batch_size)
        while batch := list(islice(questions, _AT_ONCE * self.batch_size)):
            with _in_our_words("vLLM does not answer"):
                answers = self.llm.generate(
                    [question.prompt for question in batch], self._sampling_params(), use_tqdm=False
                )
            for question, output in zip(batch, answers, strict=True):
                yield self._prediction(question, output, asked)

    @property
    def score_source(self) -> str:
        """Where scores come from, in words."""
        return "token probabilities" + (", calibrated" if self.calibrator is not None else "")

    @property
    def untaught_labels(self) -> str | None:
        """A sentence where labels are asked for that the model was not trained on."""
        return self.contract.untaught(self.labels)

    def _question(self, image: Image.Image, labels: tuple[str, ...]) -> _Question:
        # without the tags of the file: vLLM turns an image by its EXIF orientation, and here it counts as upright
        plain = Image.fromarray(np.asarray(as_rgb(image)))
        encoded = self.encoder.question(plain, labels)
        prompt = {"prompt_token_ids": _with_one_placeholder(encoded), "multi_modal_data": {"image": plain}}
        return _Question(prompt, encoded.input_ids.tolist(), encoded.image_hw, encoded.input_hw)

    def _sampling_params(self) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0.0,  # greedy
            max_tokens=self.max_new_tokens,
            stop_token_ids=sorted(self.stops),
            logprobs=1,
            detokenize=False,  # its text would lack special tokens, and the place of each token in it
        )

    def _prediction(self, question: _Question, output: Any, labels: tuple[str, ...]) -> Prediction:
        read = output.prompt_token_ids
        if list(read) != question.input_ids:
            raise ModelError(
                f"vLLM has read a question of {len(read)} tokens where {len(question.input_ids)} were meant, so it "
                "resizes images in another way and boxes would be shifted: use engine own, or another version of vLLM."
            )
        written = output.outputs[0]
        if written.finish_reason not in ("stop", "length"):
            raise ModelError(
                f"vLLM has not finished an answer ({written.finish_reason}): look at its log with --debug."
            )
        tokens = list(written.token_ids)
        log_probs = [chances[token].logprob for token, chances in zip(tokens, written.logprobs, strict=True)]
        answer = answer_of(
            tokens, np.array(log_probs, dtype=np.float32), self.processor.tokenizer, self.stops, ended=None
        )
        answer = replace(answer, truncated=written.finish_reason == "length")
        return made_out(answer, self.style.codec, question.image_hw, question.input_hw, labels, self.calibrator)


def load_vllm_detector(
    model: str,
    *,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    batch_size: int = 8,
    calibrated: bool = True,
    **options: Any,
) -> VllmDetector:
    """A detector from a folder or a hub id, its weights loaded by vLLM onto the devices that it finds.

    Args:
        model: name of the model: merged, or trained in full.
        dtype: of the weights while they are used.
        batch_size: images that are answered at a time.
        calibrated: mend scores by the `calibration.json` of the model's folder, where it has one.
        options: of `VllmDetector`.

    Raises:
        ConfigError: vLLM is not installed.
        ModelError: an adapter; no such model; one that vLLM cannot open or would compute otherwise.
    """
    contract = _check_for_vllm(model)
    llm_class = _llm_class()
    weights = base_of_head(Path(model)) or model  # a head that was trained alone: the text is its base's
    processor, config = load_processor(model), load_config(weights)
    if contract is None:
        contract = default_contract(config.model_type, processor)
    else:
        check_pixel_limits(contract, processor, Path(model))
    calibrator = read_calibrator(Path(model)) if calibrated else None
    home = str(folder_of(weights))
    with _in_our_words(f"vLLM cannot open '{model}'"):
        llm = llm_class(
            model=_without_head(home),
            dtype=dtype,
            max_model_len=-1,  # as much as fits: images and labels are not known yet
            max_num_seqs=batch_size,
            limit_mm_per_prompt={"image": 1, "video": 0},
            mm_processor_kwargs={"size": {"shortest_edge": contract.min_pixels, "longest_edge": contract.max_pixels}},
            mm_processor_cache_gb=0,  # no image is seen twice
            enable_prefix_caching=False,
        )
    if weights != model:
        check_base(Path(model), weights)
    stops = stops_of(_generation_config(weights, home, config), processor.tokenizer)
    options = {"calibrator": calibrator, "batch_size": batch_size, **options}
    return VllmDetector(llm, processor, contract, stops, **options)


def _check_for_vllm(model: str) -> Contract | None:
    """Refuse what vLLM would not load, or load and compute otherwise; the contract beside the weights."""
    if model.startswith(TINY):
        raise ModelError(
            f"vLLM opens folders and hub ids, and '{model}' is made up while it is loaded: use engine own."
        )
    if base_of_adapter(Path(model)) is not None:
        raise ModelError(f"{model} is an adapter: merge it first, boxtune merge --adapter {model} --output-dir MERGED.")
    contract = check_model(model)
    config = load_config(base_of_head(Path(model)) or model)
    rope = getattr(config.vision_config, "rope_parameters", None) or {}
    if (theta := rope.get("rope_theta", _VISION_ROPE_THETA)) != _VISION_ROPE_THETA:
        raise ModelError(
            f"The vision tower of '{model}' counts positions with rope_theta={theta:g}, and vLLM knows only "
            f"{_VISION_ROPE_THETA:g}: its boxes would be wrong. Use engine own."
        )
    return contract


def _llm_class() -> Any:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would tell its makers about the machine
    try:
        from vllm import LLM
    except ImportError as error:
        raise ConfigError(
            f"vLLM cannot be imported ({error}): pip install vllm brings it, with its own torch, best into an "
            "environment of its own; it needs a GPU. Or use engine own."
        ) from error
    return LLM


def _generation_config(model: str, home: str, config: Any) -> Any:
    """As transformers gives it to a model."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(home, **hub_options(model))
    except OSError:  # a folder without the file
        return GenerationConfig.from_model_config(config)


def _with_one_placeholder(encoded: EncodedSample) -> list[int]:
    """The tokens of a question, the image's once: vLLM repeats it by the size that it gives the image."""
    keep = ~encoded.vision_mask
    keep[int(encoded.vision_mask.int().argmax())] = True
    kept: list[int] = encoded.input_ids[keep].tolist()
    return kept


def _without_head(home: str) -> str:
    """The folder, or one of links to its files but a detection head's: vLLM loads every safetensors file it finds."""
    folder = Path(home)
    if not has_head(folder):
        return home
    view = tempfile.mkdtemp(prefix="boxtune-vllm-")
    atexit.register(shutil.rmtree, view, ignore_errors=True)  # vLLM reads small files of it again while it answers
    for file in folder.iterdir():
        if file.is_file() and file.name != WEIGHTS_FILE:
            (Path(view) / file.name).symlink_to(file.absolute())
    return view


@contextmanager
def _in_our_words(what: str) -> Iterator[None]:
    """One line of ours for what vLLM raises, its own behind it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except LOADING_ERRORS as error:
        raise ModelError(f"{what}: {in_one_line(error)}") from error
