"""Encoders and conversations that the tests of the collators share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from boxtune.collators.encode import EncodedSample, SampleEncoder, render
from boxtune.data.conversation import ConversationStyle
from boxtune.models.families import family

LABELS = ("table", "red cell")


def encoder_of(model_type: str, processor: Any, **options: Any) -> SampleEncoder:
    style = {name: options.pop(name) for name in ("prompt", "system", "box_order") if name in options}
    labels = options.pop("labels", LABELS)
    return SampleEncoder(processor, ConversationStyle(family(model_type).codec, labels, **style), **options)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def encode_messages(encoder: SampleEncoder, messages: list[dict], images: Sequence[Image.Image]) -> EncodedSample:
    """Any conversation, several images and turns included, through the parts that `SampleEncoder` is made of."""
    processor = encoder.processor
    vision = processor.image_processor(images=list(images), return_tensors="pt")
    text, spans = render(processor, messages)
    ids, answers = encoder._tokenize(text, spans, vision["image_grid_thw"])
    image_token = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return EncodedSample(
        ids, ids == image_token, answers, vision["pixel_values"], vision["image_grid_thw"], (1, 1), (1, 1), "made"
    )


def image() -> dict:
    return {"type": "image"}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def turn(role: str, *content: dict | str) -> dict:
    return {"role": role, "content": [text(part) if isinstance(part, str) else part for part in content]}


def two_images() -> list[dict]:
    """Side by side, then text, then an answer."""
    return [turn("user", image(), image(), "Where are the cells?"), turn("assistant", "Nowhere [1, 2, 3, 4].")]


def many_turns() -> list[dict]:
    return [
        turn("system", "You look at assistant pictures."),
        turn("user", image(), "assistant\nWhat is here?"),
        turn("assistant", "A cell.\nassistant"),
        turn("user", "And here?", image()),
        turn("assistant", '[{"bbox_2d": [10, 20, 30, 40], "label": "table"}]'),
    ]
