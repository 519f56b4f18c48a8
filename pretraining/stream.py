"""An endless stream of synthetic pictures: drawn by worker processes, kept on the GPU, shown again with changes.

Drawing is slower than training, so each picture is used a few times, every time with another zoom, shift, colours and
noise. A worker writes the questions and answers for several views of a picture beforehand; the GPU makes the view.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from boxtune.collators.encode import render
from boxtune.data.conversation import ConversationStyle
from boxtune.data.synthetic import make_scene, render_nutrition
from boxtune.detections import Detections
from boxtune.models.families import family

IMAGE = "<|image_pad|>"
TILE = 28  # pixels of an image token, a side
MAX_BOXES = 12  # that the helping heads are told of
NUTRITION_NAMES = ("nutrition-table", "nutrition table", "nutrition facts", "table of nutrition", "nutrition label")


@dataclass
class Chunk:
    """Pictures of one shape, each in several views: `[n, H, W, 3]` uint8, and for each view its zoom and its tokens."""

    shape: str
    images: torch.Tensor
    views: torch.Tensor  # [n, V, 4] zoom x, zoom y, shift x, shift y in shares of the sides
    input_ids: torch.Tensor  # [n, V, T]
    lengths: torch.Tensor  # [n, V]
    answer_starts: torch.Tensor  # [n, V]
    boxes: torch.Tensor  # [n, V, MAX_BOXES, 4] of the answer, in shares of the sides; zeros where there are fewer


class Pictures(IterableDataset[Chunk]):
    """Chunks drawn from ever new seeds; `first_seed` moves on when a run is resumed.

    The first pictures are easy ones, plain shapes on plain ground: from photos alone the model does not find out that
    the answer can be seen in the picture (its loss stayed that of guessing for 1.3 million photos).
    """

    def __init__(self, processor: Any, data: dict[str, Any], first_seed: int) -> None:
        self.processor, self.data, self.first_seed = processor, data, first_seed

    def __iter__(self) -> Iterator[Chunk]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
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
        images, views, tokens, boxes, picture = [], [], [], [], 0
        easy = self.data["easy_share"] * max(0.0, 1 - num_drawn / self.data["easy_until"])
        while len(images) < self.data["chunk"]:
            number = seed * 64 + picture
            picture += 1
            image_hw = (rows * TILE, columns * TILE)
            if rng.random() < easy:
                drawn = draw_easy(rng, image_hw)
            else:
                drawn = draw(number, image_hw, rng.random() < self.data["nutrition_share"])
            seen = [self._view(rng, drawn, rows * columns, plain=i == 0) for i in range(self.data["views"])]
            if max(len(ids) for _, _, ids, _ in seen) <= self.data["max_tokens"]:
                images.append(drawn.image)
                views.append([view for view, _, _, _ in seen])
                boxes.append([answer for _, answer, _, _ in seen])
                tokens.append([(ids, start) for _, _, ids, start in seen])
        return _stack(shape, images, views, tokens, boxes, self.processor.tokenizer.pad_token_id)

    def _view(
        self, rng: np.random.Generator, drawn: Drawn, num_image_tokens: int, *, plain: bool
    ) -> tuple[np.ndarray, np.ndarray, list[int], int]:
        """A zoom, the boxes of what was asked for and is left in sight, and the tokens of question and answer."""
        view = np.array([1.0, 1.0, 0.0, 0.0]) if plain else random_view(rng)
        asked, detections = drawn.query(rng)
        height, width = drawn.image.shape[:2]
        detections = seen_through(view, detections, (height, width))
        boxes = np.zeros((MAX_BOXES, 4), np.float32)
        known = detections.xyxy[:MAX_BOXES] / np.array([width, height] * 2)
        boxes[: len(known)] = known
        return view, boxes, *tokens_of(self.processor, asked, detections, drawn.image.shape[:2], num_image_tokens)


@dataclass(frozen=True)
class Drawn:
    """A picture, and a function that asks about it."""

    image: np.ndarray
    query: Callable[[np.random.Generator], tuple[list[str], Detections]]


def draw(seed: int, image_hw: tuple[int, int], nutrition: bool) -> Drawn:
    """A photo of a package, or a scene."""
    if not nutrition:
        scene = make_scene(seed, image_hw)
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


def _stack(shape: str, images: list[Any], views: list[Any], tokens: list[Any], boxes: list[Any], pad: int) -> Chunk:
    rows = [torch.tensor(ids) for views_of in tokens for ids, _ in views_of]
    size = (len(images), len(views[0]))
    return Chunk(
        shape,
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(np.array(views)).float(),
        torch.nn.utils.rnn.pad_sequence(rows, True, pad).reshape(*size, -1).to(torch.int16),
        torch.tensor([len(row) for row in rows]).reshape(size),
        torch.tensor([start for views_of in tokens for _, start in views_of]).reshape(size),
        torch.from_numpy(np.array(boxes)),
    )


def start_workers(processor: Any, data: dict[str, Any], first_seed: int, num_workers: int) -> Iterator[Chunk]:
    """Chunks from worker processes; call it before CUDA is touched, since workers are forked."""
    pictures = Pictures(processor, data, first_seed)
    return iter(DataLoader(pictures, batch_size=None, num_workers=num_workers, prefetch_factor=4))


class Pool:
    """The newest pictures of each shape on the GPU; filled by a thread, oldest overwritten.

    Lengths stay on the CPU, where batches are put together.
    """

    FIELDS = ("images", "views", "input_ids", "boxes")

    def __init__(self, data: dict[str, Any], device: torch.device, pad: int) -> None:
        total = sum(data["shapes"].values())
        self.device, self.pad, self.num_drawn = device, pad, 0
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.store: dict[str, dict[str, torch.Tensor]] = {}
        self.lengths: dict[str, np.ndarray] = {}  # [n, V, 2] where the answer starts, and the whole length
        self.filled: dict[str, int] = {}
        for shape, weight in data["shapes"].items():
            rows, columns = (int(side) for side in shape.split("x"))
            size = max(data["chunk"], int(data["pool"] * weight / total) // data["chunk"] * data["chunk"])
            kinds = {
                "images": ((size, rows * TILE, columns * TILE, 3), torch.uint8),
                "views": ((size, data["views"], 4), torch.float32),
                "input_ids": ((size, data["views"], data["max_tokens"]), torch.int16),
                "boxes": ((size, data["views"], MAX_BOXES, 4), torch.float32),
            }
            self.store[shape] = {name: torch.zeros(s, dtype=t, device=device) for name, (s, t) in kinds.items()}
            self.store[shape]["input_ids"].fill_(pad)
            self.lengths[shape] = np.zeros((size, data["views"], 2), np.int64)
            self.filled[shape] = 0

    def add(self, chunk: Chunk) -> None:
        """Put a chunk in, over the oldest of its shape."""
        store = self.store[chunk.shape]
        size, count = len(store["images"]), len(chunk.images)
        at = self.filled[chunk.shape] % size
        for name, values in self._moved(chunk).items():
            if name == "input_ids":
                values = F.pad(values, (0, store[name].shape[-1] - values.shape[-1]), value=self.pad)
            store[name][at : at + count] = values
        self.lengths[chunk.shape][at : at + count] = torch.stack([chunk.answer_starts, chunk.lengths], -1).numpy()
        self.filled[chunk.shape] += count
        self.num_drawn += count

    def _moved(self, chunk: Chunk) -> dict[str, torch.Tensor]:
        """The chunk's fields on the device; the slow way there is beside the stream that trains."""
        values = {name: getattr(chunk, name) for name in self.FIELDS}
        if self.side is None:
            return values
        with torch.cuda.stream(self.side):
            moved = {name: value.to(self.device) for name, value in values.items()}
            self.side.synchronize()
        for value in moved.values():
            value.record_stream(torch.cuda.default_stream(self.device))
        return moved

    def follow(self, chunks: Iterator[Chunk]) -> None:
        """Take chunks from the workers for ever, in a thread."""

        def work() -> None:
            if self.side is not None:
                torch.cuda.set_device(self.device)
            for chunk in chunks:
                self.add(chunk)

        threading.Thread(target=work, daemon=True).start()

    def batches(self, rng: np.random.Generator, batch_tokens: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """For ever: a shape, and stored pictures of it with about the same length."""
        while True:
            shapes = [shape for shape, filled in self.filled.items() if filled > 0]
            weights = np.array([len(self.lengths[s]) for s in shapes], dtype=float)
            shape = str(rng.choice(shapes, p=weights / weights.sum()))
            starts_and_lengths = self.lengths[shape]
            known = min(self.filled[shape], len(starts_and_lengths))
            drawn = np.stack([rng.integers(0, known, 1024), rng.integers(0, starts_and_lengths.shape[1], 1024)])
            drawn = drawn[:, starts_and_lengths[drawn[0], drawn[1], 1].argsort()]
            lengths = starts_and_lengths[drawn[0], drawn[1], 1].tolist()
            batches, start = [], 0
            while start < len(lengths):  # from short to long: as many as fit the budget of tokens
                end = start + 1
                while end < len(lengths) and (end + 1 - start) * lengths[end] <= batch_tokens:
                    end += 1
                batches.append(drawn[:, start:end])
                start = end
            for i in rng.permutation(len(batches)):
                yield shape, self._batch(shape, *batches[i])

    def _batch(self, shape: str, which: np.ndarray, view: np.ndarray) -> dict[str, Any]:
        """Fields of the pictures as tensors, and as numbers the first start of an answer and the longest row."""
        places = self.lengths[shape][which, view]
        both = torch.from_numpy(np.stack([which, view, places[:, 0], places[:, 1]])).to(self.device)
        store = self.store[shape]
        return {
            "images": store["images"][both[0]],
            **{name: store[name][both[0], both[1]] for name in self.FIELDS if name != "images"},
            "answer_starts": both[2],
            "lengths": both[3],
            "answer_start": int(places[:, 0].min()),
            "length": int(places[:, 1].max()),
        }


def shaken(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The pictures `[B, 3, H, W]` in 0–1 as their views see them, in other colours."""
    zoom, shift = batch["views"][:, :2], batch["views"][:, 2:]
    theta = torch.zeros(len(zoom), 2, 3, device=zoom.device)
    theta[:, 0, 0], theta[:, 1, 1] = 1 / zoom[:, 0], 1 / zoom[:, 1]
    theta[:, :, 2] = (1 - 2 * shift) / zoom - 1  # output place in −1…1 → place in the stored picture
    pixels = batch["images"].permute(0, 3, 1, 2).float() / 255
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return _recoloured(F.grid_sample(pixels, grid, padding_mode="border", align_corners=False))


def _recoloured(pixels: torch.Tensor) -> torch.Tensor:
    count, device = len(pixels), pixels.device

    def factor(spread: float, channels: int = 1) -> torch.Tensor:
        return 1 + torch.empty(count, channels, 1, 1, device=device).uniform_(-spread, spread)

    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * factor(0.4)
    pixels = (pixels - 0.5) * factor(0.3) + 0.5 * factor(0.25) * factor(0.08, 3)
    flipped = torch.rand(count, 1, 1, 1, device=device) < 0.03
    pixels = torch.where(flipped, 1 - pixels, pixels)
    return (pixels + torch.randn_like(pixels) * 0.02 * torch.rand(count, 1, 1, 1, device=device)).clamp(0, 1)
