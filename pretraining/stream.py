"""An endless stream of synthetic pictures: drawn by worker processes, kept on the GPU, shown again with changes.

Drawing is slower than training, so each picture is used a few times, every time with another zoom, shift, colours and
noise. A worker writes the questions and answers for several views of a picture beforehand; the GPU makes the view.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from boxtune.collators.encode import render
from boxtune.data.conversation import ConversationStyle
from boxtune.data.synthetic import make_scene, render_nutrition
from boxtune.detections import Detections
from boxtune.models.families import family

IMAGE = "<|image_pad|>"
TILE = 28  # pixels of an image token, a side
MAX_BOXES = 12  # that the helping heads are told of; `max_boxes` of the config's data where all must be
NO_TOKEN = -100  # the padding of labels
NUTRITION_NAMES = ("nutrition-table", "nutrition table", "nutrition facts", "table of nutrition", "nutrition label")


NEVER_THERE = (
    "cat",
    "bicycle",
    "person",
    "airplane",
    "tree",
    "horse",
    "umbrella",
    "guitar",
    "window",
    "bridge",
    "sheep",
)


@dataclass
class Chunk:
    """Pictures of one shape, each in several views: `[n, H, W, 3]` uint8, and for each view its zoom and its tokens."""

    shape: str
    images: torch.Tensor
    views: torch.Tensor  # [n, V, 4] zoom x, zoom y, shift x, shift y in shares of the sides
    input_ids: torch.Tensor  # [n, V, T]
    lengths: torch.Tensor  # [n, V]
    answer_starts: torch.Tensor  # [n, V]
    boxes: torch.Tensor  # [n, V, M, 4] of the answer, in shares of the sides; zeros where there are fewer
    labels: torch.Tensor  # [n, V, M, T] int16 tokens of each box's label, and the one that ends it, padded with −100
    num_boxes: torch.Tensor  # [n, V]


@dataclass(frozen=True)
class View:
    """A zoom and shift of a picture, what was asked for and is left in sight, and the tokens that say so."""

    place: np.ndarray
    detections: Detections
    tokens: list[int]
    answer_start: int


class Pictures(IterableDataset[Chunk]):
    """Chunks drawn from ever new seeds; `first_seed` moves on when a run is resumed.

    The first pictures are easy ones, plain shapes on plain ground: from photos alone the model does not find out that
    the answer can be seen in the picture (its loss stayed that of guessing for 1.3 million photos).
    """

    def __init__(self, processor: Any, data: dict[str, Any], first_seed: int) -> None:
        self.processor, self.data, self.first_seed = processor, data, first_seed
        self.questions_only, self.absent_share = data.get("questions_only", False), data.get("absent_share", 0.0)
        self.max_boxes, self.label_tokens = data.get("max_boxes", MAX_BOXES), data.get("label_tokens", 0)
        self.known_labels: dict[str, list[int]] = {}

    def __iter__(self) -> Iterator[Chunk]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        if worker is not None:
            os.nice(10)  # drawing gives way to training, for which all wait
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        shapes = list(self.data["shapes"])
        weights = np.array([self.data["shapes"][s] for s in shapes], dtype=float)
        turn = 0
        while True:
            seed = self.first_seed + turn * 1000 + number
            num_drawn = turn * self.data["chunk"] * (1 if worker is None else worker.num_workers)
            turn += 1
            rng = np.random.default_rng([seed, 77])
            yield self._chunk(rng, str(rng.choice(shapes, p=weights / weights.sum())), seed, num_drawn)

    def _chunk(self, rng: np.random.Generator, shape: str, seed: int, num_drawn: int) -> Chunk:
        rows, columns = (int(side) for side in shape.split("x"))
        images, views, picture = [], [], 0
        easy = self.data["easy_share"] * max(0.0, 1 - num_drawn / self.data["easy_until"])
        while len(images) < self.data["chunk"]:
            number = seed * 64 + picture
            picture += 1
            image_hw = (rows * TILE, columns * TILE)
            if rng.random() < easy:
                drawn = draw_easy(rng, image_hw)
            else:
                nutrition = rng.random() < self.data["nutrition_share"]
                drawn = draw(number, image_hw, nutrition, None if nutrition else self._kind(rng))
            seen = [self._view(rng, drawn, rows * columns, plain=i == 0) for i in range(self.data["views"])]
            if all(self._fits(view) for view in seen):
                images.append(drawn.image)
                views.append(seen)
        return self._stack(shape, images, views)

    def _kind(self, rng: np.random.Generator) -> str | None:
        """A kind of scene by the weights of the config, None for the usual mix."""
        weights = self.data.get("scene_kinds")
        if not weights:
            return None
        shares = np.array(list(weights.values()), dtype=float)
        return str(rng.choice(list(weights), p=shares / shares.sum()))

    def _view(self, rng: np.random.Generator, drawn: Drawn, num_image_tokens: int, *, plain: bool) -> View:
        place = np.array([1.0, 1.0, 0.0, 0.0]) if plain else random_view(rng)
        asked, detections = drawn.query(rng)
        if self.absent_share and rng.random() < self.absent_share:
            asked = rng.choice(NEVER_THERE, int(rng.integers(1, 4)), replace=False).tolist()
            detections = detections.select(np.zeros(len(detections), bool))
        image_hw = drawn.image.shape[:2]
        detections = seen_through(place, detections, image_hw)
        tokens, start = tokens_of(self.processor, asked, detections, image_hw, num_image_tokens)
        return View(place, detections, tokens[:start] if self.questions_only else tokens, start)

    def _fits(self, view: View) -> bool:
        """A box that is left out would be taught to be none, where all are wanted."""
        if len(view.tokens) > self.data["max_tokens"]:
            return False
        labels = [self._label(name) for name in view.detections.labels] if self.label_tokens else []
        return len(labels) <= self.max_boxes and all(len(label) <= self.label_tokens for label in labels)

    def _label(self, name: str) -> list[int]:
        if name not in self.known_labels:
            tokenizer = self.processor.tokenizer
            ids = tokenizer(name, add_special_tokens=False)["input_ids"]
            self.known_labels[name] = [*ids, tokenizer.eos_token_id]
        return self.known_labels[name]

    def _stack(self, shape: str, images: list[np.ndarray], views: list[list[View]]) -> Chunk:
        flat = [view for of_image in views for view in of_image]
        size = (len(images), len(views[0]))
        boxes = np.zeros((len(flat), self.max_boxes, 4), np.float32)
        labels = np.full((len(flat), self.max_boxes, self.label_tokens), NO_TOKEN, np.int16)
        sides = np.array([images[0].shape[1], images[0].shape[0]] * 2)
        for number, view in enumerate(flat):
            known = view.detections.xyxy[: self.max_boxes] / sides
            boxes[number, : len(known)] = known
            if self.label_tokens:
                for place, name in enumerate(view.detections.labels):
                    tokens = self._label(name)
                    labels[number, place, : len(tokens)] = tokens
        rows = [torch.tensor(view.tokens) for view in flat]
        pad = self.processor.tokenizer.pad_token_id
        return Chunk(
            shape,
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.array([view.place for view in flat])).float().reshape(*size, 4),
            torch.nn.utils.rnn.pad_sequence(rows, True, pad).reshape(*size, -1).to(torch.int16),
            torch.tensor([len(row) for row in rows]).reshape(size),
            torch.tensor([view.answer_start for view in flat]).reshape(size),
            torch.from_numpy(boxes).reshape(*size, *boxes.shape[1:]),
            torch.from_numpy(labels).reshape(*size, *labels.shape[1:]),
            torch.tensor([len(view.detections) for view in flat]).reshape(size),
        )


@dataclass(frozen=True)
class Drawn:
    """A picture, and a function that asks about it."""

    image: np.ndarray
    query: Callable[[np.random.Generator], tuple[list[str], Detections]]


def draw(seed: int, image_hw: tuple[int, int], nutrition: bool, kind: str | None = None) -> Drawn:
    """A photo of a package, or a scene, of this kind if one is named."""
    if not nutrition:
        scene = make_scene(seed, image_hw, kind)
        return Drawn(scene.image, scene.query)
    image, detections = render_nutrition(seed, image_hw)

    def query(rng: np.random.Generator) -> tuple[list[str], Detections]:
        name = NUTRITION_NAMES[0] if rng.random() < 0.7 else str(rng.choice(NUTRITION_NAMES))
        return [name], Detections(detections.xyxy, [name] * len(detections))

    return Drawn(image, query)


def draw_easy(rng: np.random.Generator, image_hw: tuple[int, int]) -> Drawn:
    """One to three plain shapes on plain ground, in colours that stand out; asked for by shape, colour or both."""
    height, width = image_hw
    dark = rng.random() < 0.5
    ground = rng.integers(0, 70, 3) if dark else rng.integers(185, 256, 3)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = ground
    boxes, labels = [], []
    for _ in range(1 if rng.random() < 0.6 else int(rng.integers(2, 4))):
        w, h = (int(rng.integers(side // 10, side * 7 // 10)) for side in (width, height))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        if any(x < b[2] + 4 and b[0] < x + w + 4 and y < b[3] + 4 and b[1] < y + h + 4 for b in boxes):
            continue
        colour = list(_COLOURS)[int(rng.integers(len(_COLOURS)))]
        paint = [int(c * (0.75 if not dark else 1.0)) for c in _COLOURS[colour]]
        round_one = rng.random() < 0.5
        if round_one:
            cv2.ellipse(image, ((x + w / 2, y + h / 2), (w, h), 0), paint, -1)
        else:
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), paint, -1)
        boxes.append([x, y, x + w, y + h])
        labels.append((colour, "circle" if round_one else "square"))

    def query(rng: np.random.Generator) -> tuple[list[str], Detections]:
        kind = int(rng.integers(3))
        names = ["object"] * len(labels) if kind == 0 else [" ".join(name) if kind == 1 else name[1] for name in labels]
        asked = list(dict.fromkeys(names))
        if len(asked) > 1 and rng.random() < 0.5:
            asked = [asked[int(rng.integers(len(asked)))]]
        kept = [i for i, name in enumerate(names) if name in asked]
        return asked, Detections([boxes[i] for i in kept], [names[i] for i in kept])

    return Drawn(image, query)


_COLOURS = {
    "red": (230, 40, 40), "green": (50, 200, 60), "blue": (60, 90, 250), "yellow": (250, 230, 50),
    "purple": (170, 60, 210), "orange": (250, 150, 30),
}  # fmt: skip


def random_view(rng: np.random.Generator) -> np.ndarray:
    """Zoom by 0.67–1.33, a little different a side, with a shift that leaves no more empty than it must."""
    zoom = np.exp(rng.uniform(-0.4, 0.29)) * np.exp(rng.uniform(-0.08, 0.08, 2))
    return np.concatenate([zoom, rng.random(2) * (1 - zoom)])


def seen_through(view: np.ndarray, detections: Detections, image_hw: tuple[int, int]) -> Detections:
    """Boxes in the view; those of which less than 40 % is left are out of sight."""
    height, width = image_hw
    sides = np.array([width, height] * 2)
    moved = detections.with_boxes(detections.xyxy * np.tile(view[:2], 2) + np.tile(view[2:], 2) * sides)
    cut = moved.clipped(image_hw)
    return cut.select(cut.areas > 0.4 * np.maximum(moved.areas, 1e-9))


def tokens_of(
    processor: Any, asked: list[str], detections: Detections, image_hw: tuple[int, int], num_image_tokens: int
) -> tuple[list[int], int]:
    """Tokens of the conversation, and where the answer starts."""
    style = ConversationStyle(family("qwen2_vl").codec, tuple(asked))
    text, [(start, _)] = render(processor, [*style.question(), style.answer(detections, image_hw, image_hw)])
    texts = [text[:start].replace(IMAGE, IMAGE * num_image_tokens), text[start:]]
    before, answer = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return before + answer, len(before)


def start_workers(processor: Any, data: dict[str, Any], first_seed: int, num_workers: int) -> Iterator[Chunk]:
    """Chunks from worker processes; call it before CUDA is touched, since workers are forked."""
    pictures = Pictures(processor, data, first_seed)
    return iter(DataLoader(pictures, batch_size=None, num_workers=num_workers, prefetch_factor=4))
