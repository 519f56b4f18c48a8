"""Token counts known before any image is decoded: from the size in its header and the text of its answer.

Where samples are shown with worked examples, which are drawn anew in each epoch, a count is the most that it can be.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from boxtune.collators.encode import SampleEncoder, render
from boxtune.data.columns import record_columns
from boxtune.data.conversation import WorkedExample
from boxtune.data.dataset import DetectionDataset
from boxtune.detections import Detections
from boxtune.errors import DataError
from boxtune.models.contract import pixel_limits

Span = tuple[int, int]
_SAMPLED = 2000  # records that are enough to know how long answers get
_known_lengths: WeakKeyDictionary[DetectionDataset, tuple[Any, Sequence[int]]] = WeakKeyDictionary()


def num_image_tokens(encoder: SampleEncoder, image_hw: Span) -> int:
    """Tokens of an image of this size."""
    processor = encoder.processor.image_processor
    return int(processor.get_number_of_image_patches(*image_hw, {})) // processor.merge_size**2


def num_tokens(
    encoder: SampleEncoder, detections: Detections, image_hw: Span, examples: Sequence[tuple[Detections, Span]] = ()
) -> int:
    """Tokens of a whole conversation. The digits of boxes in pixels are counted for the unresized image.

    Args:
        encoder: knows the words.
        detections, image_hw: of the sample.
        examples: the same of each worked example.
    """
    style, worked = encoder.style, [WorkedExample(boxes, size, size) for boxes, size in examples]
    text, _ = render(
        encoder.processor, [*style.question(examples=worked), style.answer(detections, image_hw, image_hw)]
    )
    text_tokens = encoder.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    sizes = [image_hw, *(size for _, size in examples)]
    return len(text_tokens) - len(sizes) + sum(num_image_tokens(encoder, size) for size in sizes)


def sample_lengths(encoder: SampleEncoder, samples: DetectionDataset) -> Sequence[int]:
    """Tokens of every conversation, as `num_tokens` counts them; of what all have in common once.

    With worked examples it is the most that a conversation may have: with the longest others of the set before it. A
    run asks several times, and a million conversations take minutes: those of a data set are kept while it is.
    """
    how = (encoder, pixel_limits(encoder.processor))
    known = _known_lengths.get(samples)
    if known is None or known[0] != how:
        known = _known_lengths[samples] = (how, _counted(encoder, samples))
    return known[1]


def _counted(encoder: SampleEncoder, samples: DetectionDataset) -> Sequence[int]:
    own = array("q")
    image_tokens = functools.cache(lambda image_hw: num_image_tokens(encoder, image_hw))
    for batch in record_columns(samples.records):  # so that the tokens of a million answers are never there together
        sizes = [(height, width) for height, width in batch.image_hw.tolist()]
        answers = [
            encoder.style.answer(detections, image_hw, image_hw)["content"][0]["text"]
            for detections, image_hw in zip(batch.detections, sizes, strict=True)
        ]
        tokens = encoder.processor.tokenizer(answers, add_special_tokens=False)["input_ids"]
        own.extend(len(ids) + image_tokens(image_hw) for ids, image_hw in zip(tokens, sizes, strict=True))
    if not own:
        return own
    first = samples.detections(0), samples.image_hw(0)
    in_common = num_tokens(encoder, *first) - own[0]
    alone = array("q", (in_common + number for number in own))
    return _with_examples(encoder, own, alone, first) if encoder.num_examples else alone


def _with_examples(
    encoder: SampleEncoder, own: Sequence[int], alone: Sequence[int], first: tuple[Detections, Span]
) -> Sequence[int]:
    """As `alone`, each behind the longest others.

    Args:
        encoder: knows how many.
        own: tokens of image and answer.
        alone: those of the conversation without examples.
        first: the first sample.
    """
    number = encoder.num_examples
    around = num_tokens(encoder, *first, examples=[first]) - alone[0] - own[0]  # tokens of a turn but image and answer
    ranked = sorted(range(len(own)), key=lambda index: -own[index])[: number + 1]
    longest, together = set(ranked[:number]), sum(own[index] for index in ranked[:number])
    spare = own[ranked[-1]]  # comes in where a sample is one of the longest itself
    return array(
        "q",
        (
            alone[i] + number * around + (together - own[i] + spare if i in longest else together)
            for i in range(len(own))
        ),
    )


def token_shares(encoder: SampleEncoder, samples: DetectionDataset, labels: str) -> dict[str, float]:
    """Which share of the tokens stands for images, and which is trained (`image_share`, `label_share`), roughly.

    Args:
        encoder: knows lengths.
        samples: the first thousands are looked at.
        labels: `assistant` or `all_text`.
    """
    encoder = replace(encoder, num_examples=0)  # the shares of an example are those of any sample
    number = min(len(samples), _SAMPLED)
    part = samples.subset(range(number)) if number < len(samples) else samples
    lengths = sample_lengths(encoder, part)
    total = max(1, sum(lengths))
    images = sum(num_image_tokens(encoder, part.image_hw(index)) for index in range(number))
    without_answers = num_tokens(encoder, Detections.empty(), part.image_hw(0)) - num_image_tokens(
        encoder, part.image_hw(0)
    )
    answers = total - images - number * without_answers
    return {
        "image_share": images / total,
        "label_share": (answers if labels == "assistant" else total - images) / total,
    }


def check_lengths(encoder: SampleEncoder, samples: DetectionDataset) -> None:
    """Find samples above `encoder.max_length` before training; nothing to do where there is no limit.

    Raises:
        DataError: names the longest of them.
    """
    limit = encoder.max_length
    if limit is None:
        return
    lengths = sample_lengths(encoder, samples)
    too_long = [i for i, length in enumerate(lengths) if length > limit]
    if too_long:
        worst = max(too_long, key=lambda i: lengths[i])
        raise DataError(
            f"{len(too_long)} of {len(lengths)} samples have more tokens than collator.max_length={limit}; longest is "
            f"'{samples.records[worst].id}' with {lengths[worst]}"
            + (f" (behind the longest data.examples={number})" if (number := encoder.num_examples) else "")
            + ": raise it, lower model.max_pixels"
            + (" or data.examples" if number else "")
            + ", or drop them."
        )


def longest_answer(encoder: SampleEncoder, samples: DetectionDataset) -> int:
    """Tokens of the longest answer among the first records, stop token included."""
    texts = []
    for index in range(min(len(samples), _SAMPLED)):
        image_hw = samples.image_hw(index)
        message = encoder.style.answer(samples.detections(index), image_hw, image_hw)
        texts.append(message["content"][0]["text"])
    ids = encoder.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return max((len(row) for row in ids), default=0) + 1
