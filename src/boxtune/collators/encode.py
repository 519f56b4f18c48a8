"""One sample → tokens, pixels and the places of the answer. Batching is done elsewhere, on what this returns.

The image goes through the processor's image part and the text through its tokenizer, exactly as the processor itself
does it (a test holds the two against each other); apart, because boxes are written in units of the input image, whose
size is known only after the image part.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image

from boxtune.collators.pictures import NamedSample
from boxtune.data.conversation import ConversationStyle, Message, WorkedExample
from boxtune.data.sample import Sample, SampleWithExamples
from boxtune.errors import ConfigError, DataError, ModelError
from boxtune.models.frozen_vision import Picture

Span = tuple[int, int]
IMAGE_PAD = "<|image_pad|>"
# jinja's own, and what the expressions of a template may end in
_TEMPLATE_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RuntimeError,
    MemoryError,
)


@dataclass(frozen=True)
class EncodedSample:
    """One conversation as tensors.

    Attributes:
        input_ids: `[L]` tokens, image placeholders already repeated.
        vision_mask: `[L]` True at image tokens (`mm_token_type_ids` of transformers).
        answer_spans: token ranges `[start, end)` of each assistant turn, stop token and line end included.
        pixel_values: `[patches, channels × frames × patch × patch]` of all images of the conversation but those whose
            features are kept; `[0]` where there is none.
        image_grid_thw: `[images, 3]` frames, rows and columns of patches.
        image_hw, input_hw: size of the (last) image in the file and as the model sees it, in pixels.
        sample_id: for messages.
        pictures: with a vision cache, what it knows each image by.
        kept: `[layers, tokens, hidden]`, features of the images that are kept, one after the other.
        is_answered: False where the last question has no answer yet; spans are then those of worked examples.
    """

    input_ids: torch.Tensor
    vision_mask: torch.Tensor
    answer_spans: tuple[Span, ...]
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    image_hw: Span
    input_hw: Span
    sample_id: str
    pictures: tuple[Picture, ...] = ()
    kept: torch.Tensor | None = None
    is_answered: bool = True

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class EncodedExample:
    """A worked example, its image ready for the model.

    Attributes:
        pixel_values: `[patches, channels × frames × patch × patch]`.
        image_grid_thw: `[1, 3]` frames, rows and columns of patches.
        shown: what the conversation tells of it.
    """

    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    shown: WorkedExample


@dataclass(frozen=True)
class SampleEncoder:
    """Turns samples (with answer) and images (without) into `EncodedSample`s.

    Attributes:
        processor: of the model, with its pixel limits set.
        style: prompt, order and coordinates.
        max_length: longest conversation allowed in tokens, or None. Nothing is ever cut: an image token would be lost.
        num_examples: worked examples that each sample for training is shown with; see `data/examples`.
    """

    processor: Any
    style: ConversationStyle
    max_length: int | None = None
    num_examples: int = 0

    def sample(self, sample: Sample | NamedSample) -> EncodedSample:
        """Question and answer of a sample, for training.

        Raises:
            DataError: longer than `max_length`; names the sample and its length.
        """

        examples = [self.example(one) for one in sample.examples] if isinstance(sample, SampleWithExamples) else []
        assert len(examples) == self.num_examples, "lengths were counted with other examples"

        def messages(input_hw: Span) -> list[Message]:
            question = self.style.question(examples=[example.shown for example in examples])
            return [*question, self.style.answer(sample.detections, sample.image_hw, input_hw)]

        kept = sample.kept if isinstance(sample, NamedSample) else None
        if kept is None:
            assert sample.image is not None  # it is opened where nothing is kept
            encoded = self._encode(sample.image, messages, sample.id, examples=examples)
        else:
            grid = torch.tensor([kept.grid_thw])
            encoded = self._conversation(torch.empty(0), grid, sample.image_hw, messages, sample.id)
            assert kept.features.shape[1] == int(encoded.vision_mask.sum())
        if not isinstance(sample, NamedSample):
            return encoded
        rows, columns = (int(side) for side in encoded.image_grid_thw[0, 1:])
        picture = Picture(
            name=sample.name,
            grid_thw=(int(encoded.image_grid_thw[0, 0]), rows, columns),
            num_tokens=int(encoded.vision_mask.sum()),
            image_hw=sample.image_hw,
            is_kept=kept is not None,
            damage=sample.damage,
        )
        return dataclasses.replace(encoded, pictures=(picture,), kept=None if kept is None else kept.features)

    def question(
        self, image: Image.Image, labels: tuple[str, ...] | None = None, examples: Sequence[EncodedExample] = ()
    ) -> EncodedSample:
        """The question alone, after worked examples if there are some, up to where the model's answer begins."""
        messages = self.style.question(labels, [example.shown for example in examples])
        return self._encode(image, lambda input_hw: messages, "image", generation=True, examples=examples)

    def example(self, sample: Sample) -> EncodedExample:
        """A sample to be shown with its answer.

        Raises:
            DataError: the model takes no image of this shape.
        """
        pixels, grid = self._image(sample.image, sample.id)
        return EncodedExample(pixels, grid, WorkedExample(sample.detections, sample.image_hw, self._input_hw(grid)))

    def _encode(
        self,
        image: Image.Image,
        messages_for: Callable[[Span], list[Message]],
        sample_id: str,
        *,
        generation: bool = False,
        examples: Sequence[EncodedExample] = (),
    ) -> EncodedSample:
        pixels, grid = self._image(image, sample_id)
        if examples:
            pixels = torch.cat([*(example.pixel_values for example in examples), pixels])
            grid = torch.cat([*(example.image_grid_thw for example in examples), grid])
        image_hw = (image.height, image.width)
        return self._conversation(pixels, grid, image_hw, messages_for, sample_id, generation=generation)

    def _image(self, image: Image.Image, sample_id: str) -> tuple[torch.Tensor, torch.Tensor]:
        try:
            vision = self.processor.image_processor(images=[image], return_tensors="pt")
        except ValueError as error:  # an aspect ratio above 200
            raise DataError(f"{sample_id}: the image of {image.width}×{image.height} px: {error}") from None
        return vision["pixel_values"], vision["image_grid_thw"]

    def _input_hw(self, grid: torch.Tensor) -> Span:
        """Of the last image."""
        patch = self.processor.image_processor.patch_size
        return int(grid[-1, 1]) * patch, int(grid[-1, 2]) * patch

    def _conversation(
        self,
        pixel_values: torch.Tensor,
        grid: torch.Tensor,
        image_hw: Span,
        messages_for: Callable[[Span], list[Message]],
        sample_id: str,
        *,
        generation: bool = False,
    ) -> EncodedSample:
        input_hw = self._input_hw(grid)
        text, spans = render(self.processor, messages_for(input_hw), generation=generation)
        input_ids, answer_spans = self._tokenize(text, spans, grid)
        if self.max_length is not None and len(input_ids) > self.max_length:
            raise DataError(
                f"Sample {sample_id} has {len(input_ids)} tokens, collator.max_length allows {self.max_length}: raise "
                "it, lower model.max_pixels"
                + (", show fewer data.examples" if self.num_examples else "")
                + ", or leave the sample out. Nothing is cut, it could be an image token."
            )
        image_token = self.processor.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        return EncodedSample(
            input_ids=input_ids,
            vision_mask=input_ids == image_token,
            answer_spans=answer_spans,
            pixel_values=pixel_values,
            image_grid_thw=grid,
            image_hw=image_hw,
            input_hw=input_hw,
            sample_id=sample_id,
            is_answered=not generation,
        )

    def _tokenize(self, text: str, spans: list[Span], grid: torch.Tensor) -> tuple[torch.Tensor, tuple[Span, ...]]:
        """Tokens of the text with each image placeholder repeated; character spans → token spans."""
        counts = (grid.prod(dim=1) // self.processor.image_processor.merge_size**2).tolist()
        places = [match.start() for match in re.finditer(re.escape(IMAGE_PAD), text)]
        if len(places) != len(counts):
            raise ConfigError(
                f"The conversation holds {len(places)} image places for {len(counts)} images: "
                f"the chat template or a prompt writes {IMAGE_PAD} itself."
            )

        def expanded(position: int) -> int:
            return position + sum(
                (n - 1) * len(IMAGE_PAD) for at, n in zip(places, counts, strict=True) if at < position
            )

        repeats = iter(counts)
        long_text = re.sub(re.escape(IMAGE_PAD), lambda _: IMAGE_PAD * next(repeats), text)
        encoding = self.processor.tokenizer(long_text, return_offsets_mapping=True, add_special_tokens=False)
        spans = [(expanded(start), expanded(end)) for start, end in spans]
        answer_spans = tuple(_token_span(encoding["offset_mapping"], span) for span in spans)
        return torch.tensor(encoding["input_ids"]), answer_spans


def _token_span(offsets: list[Span], span: Span) -> Span:
    inside = [i for i, (start, end) in enumerate(offsets) if start >= span[0] and end <= span[1] and end > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def render(processor: Any, messages: list[Message], *, generation: bool = False) -> tuple[str, list[Span]]:
    """The conversation as text, and the character range of each assistant turn.

    A turn begins where the text of the messages before it, with the generation prompt, ends. So the ranges come from
    the chat template itself and hold whatever words a user or a label may contain.

    Raises:
        ConfigError: the chat template writes earlier messages in another way once an answer follows.
        ModelError: the chat template is none, or asks for what its sandbox forbids.
    """
    text = _as_text(processor, messages, generation)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _as_text(processor, messages[:index], True)
        until = _as_text(processor, messages[: index + 1], False)
        if not (text.startswith(until) and until.startswith(before)):
            raise ConfigError(
                "The chat template changes earlier messages when an answer is added, so the answer cannot be told from "
                "the prompt: use a chat template that only appends."
            )
        spans.append((len(before), len(until)))
    return text, spans


def _as_text(processor: Any, messages: list[Message], generation: bool) -> str:
    """The conversation by the model's own template, which transformers runs in jinja's sandbox."""
    try:
        text: str = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    except _TEMPLATE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"The model's chat template cannot be used ({reason}): copy its files again.") from error
    return text
