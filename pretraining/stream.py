"""An endless stream of synthetic pictures: drawn by worker processes, kept on the GPU, shown again with changes.

Drawing is slower than training, so each picture is used a few times, every time with another zoom, shift, colours and
noise. Zoom and shift keep the order of the boxes, so only the numbers in the answer change, and those are rewritten on
the GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from boxtune.collators.encode import render
from boxtune.data.conversation import ConversationStyle
from boxtune.data.synthetic import make_scene, render_nutrition
from boxtune.detections import Detections
from boxtune.grounding.prompts import order_boxes
from boxtune.models.families import family

IMAGE = "<|image_pad|>"
TILE = 28  # pixels of an image token, a side
MAX_BOXES = 40
NUTRITION_NAMES = ("nutrition-table", "nutrition table", "nutrition facts", "table of nutrition", "nutrition label")


@dataclass
class Chunk:
    """Pictures of one shape: `[n, H, W, 3]` uint8, tokens `[n, T]`, boxes in 0–1 `[n, MAX_BOXES, 4]`."""

    shape: str
    images: torch.Tensor
    input_ids: torch.Tensor
    lengths: torch.Tensor
    answer_starts: torch.Tensor
    boxes: torch.Tensor
    box_slots: torch.Tensor  # [n, MAX_BOXES, 4] places of the coordinates among the tokens, −1 where none


class Pictures(IterableDataset[Chunk]):
    """Chunks drawn from ever new seeds; `first_seed` moves on when a run is resumed."""

    def __init__(self, processor: Any, data: dict[str, Any], first_seed: int) -> None:
        self.processor, self.data, self.first_seed = processor, data, first_seed

    def __iter__(self) -> Iterator[Chunk]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        torch.set_num_threads(1)
        shapes = list(self.data["shapes"])
        weights = np.array([self.data["shapes"][s] for s in shapes], dtype=float)
        turn = 0
        while True:
            seed = self.first_seed + turn * 1000 + number
            turn += 1
            rng = np.random.default_rng([seed, 77])
            yield self._chunk(rng, str(rng.choice(shapes, p=weights / weights.sum())), seed)

    def _chunk(self, rng: np.random.Generator, shape: str, seed: int) -> Chunk:
        rows, columns = (int(side) for side in shape.split("x"))
        drawn = []
        picture = 0
        while len(drawn) < self.data["chunk"]:
            number = seed * 64 + picture
            picture += 1
            image, asked, detections = draw(rng, number, (rows * TILE, columns * TILE), self.data["nutrition_share"])
            if len(detections) > MAX_BOXES:
                continue
            ids, start, slots = tokens_of(self.processor, asked, detections, image.shape[:2], rows * columns)
            if len(ids) <= self.data["max_tokens"]:
                drawn.append((image, ids, start, detections, slots))
        return _stack(shape, drawn, self.processor.tokenizer.pad_token_id)


def draw(
    rng: np.random.Generator, seed: int, image_hw: tuple[int, int], nutrition_share: float
) -> tuple[np.ndarray, list[str], Detections]:
    """One picture, the labels that are asked for, and the boxes of these."""
    height, width = image_hw
    if rng.random() < nutrition_share:
        image, detections = render_nutrition(seed, (height, width))
        name = NUTRITION_NAMES[0] if rng.random() < 0.7 else str(rng.choice(NUTRITION_NAMES))
        return image, [name], Detections(detections.xyxy, [name] * len(detections))
    scene = make_scene(seed, (height, width))
    asked, detections = scene.query(rng)
    return scene.image, asked, detections


def tokens_of(
    processor: Any, asked: list[str], detections: Detections, image_hw: tuple[int, int], num_image_tokens: int
) -> tuple[list[int], int, np.ndarray]:
    """Tokens of the conversation, where the answer starts, and the places of the coordinates `[N, 4]`."""
    style = ConversationStyle(family("qwen2_vl").codec, tuple(asked))
    messages = [*style.question(), style.answer(detections, image_hw, image_hw)]
    text, [(start, _)] = render(processor, messages)
    tokenizer = processor.tokenizer
    before = tokenizer(text[:start].replace(IMAGE, IMAGE * num_image_tokens), add_special_tokens=False)["input_ids"]
    answer = tokenizer(text[start:], add_special_tokens=False)["input_ids"]
    opening = tokenizer.convert_tokens_to_ids("<|box_start|>")
    # (x1,y1),(x2,y2) is ( x1 , y1 ),( x2 , y2 ): the numbers stand 2, 4, 6 and 8 places after the opening token
    opened = [i for i, token in enumerate(answer) if token == opening]
    slots = np.array([[len(before) + i + step for step in coordinate_steps(tokenizer)] for i in opened])
    return before + answer, len(before), slots.reshape(-1, 4)


def coordinate_steps(tokenizer: Any) -> list[int]:
    """How many tokens after `<|box_start|>` each of the four coordinates stands."""
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("(1,2),(3,4)", add_special_tokens=False)["input_ids"])
    return [pieces.index(number) + 1 for number in "1234"]


def _stack(shape: str, drawn: list[Any], pad: int) -> Chunk:
    ids = [torch.tensor(row[1]) for row in drawn]
    boxes = torch.zeros(len(drawn), MAX_BOXES, 4)
    slots = torch.full((len(drawn), MAX_BOXES, 4), -1)
    for i, (image, _, _, detections, places) in enumerate(drawn):
        height, width = image.shape[:2]
        ordered = order_boxes(detections, "raster", (height, width)).xyxy  # as the answer names them
        boxes[i, : len(ordered)] = torch.from_numpy(ordered / [width, height, width, height]).float()
        slots[i, : len(places)] = torch.from_numpy(places) if len(places) else slots[i, :0]
    return Chunk(
        shape,
        torch.from_numpy(np.stack([row[0] for row in drawn])),
        torch.nn.utils.rnn.pad_sequence(ids, True, pad),
        torch.tensor([len(row) for row in ids]),
        torch.tensor([row[2] for row in drawn]),
        boxes,
        slots,
    )


def start_workers(processor: Any, data: dict[str, Any], first_seed: int, num_workers: int) -> Iterator[Chunk]:
    """Chunks from worker processes; call it before CUDA is touched, since workers are forked."""
    pictures = Pictures(processor, data, first_seed)
    return iter(DataLoader(pictures, batch_size=None, num_workers=num_workers, prefetch_factor=4))


class Pool:
    """The newest pictures of each shape on the GPU; filled by a thread, oldest overwritten."""

    FIELDS = ("images", "input_ids", "lengths", "answer_starts", "boxes", "box_slots")

    def __init__(self, data: dict[str, Any], device: torch.device, pad: int) -> None:
        total = sum(data["shapes"].values())
        self.device, self.lock, self.num_drawn = device, threading.Lock(), 0
        self.store: dict[str, dict[str, torch.Tensor]] = {}
        self.filled: dict[str, int] = {}
        for shape, weight in data["shapes"].items():
            rows, columns = (int(side) for side in shape.split("x"))
            size = max(data["chunk"], int(data["pool"] * weight / total) // data["chunk"] * data["chunk"])
            kinds = {
                "images": ((size, rows * TILE, columns * TILE, 3), torch.uint8),
                "input_ids": ((size, data["max_tokens"]), torch.int16),
                "lengths": ((size,), torch.int32),
                "answer_starts": ((size,), torch.int32),
                "boxes": ((size, MAX_BOXES, 4), torch.float32),
                "box_slots": ((size, MAX_BOXES, 4), torch.int16),
            }
            self.store[shape] = {name: torch.zeros(s, dtype=t, device=device) for name, (s, t) in kinds.items()}
            self.store[shape]["input_ids"].fill_(pad)
            self.filled[shape] = 0
        self.pad = pad

    def add(self, chunk: Chunk) -> None:
        """Put a chunk in, over the oldest of its shape."""
        store = self.store[chunk.shape]
        size, count = len(store["lengths"]), len(chunk.lengths)
        with self.lock:
            at = self.filled[chunk.shape] % size
            for name in self.FIELDS:
                values = getattr(chunk, name)
                if name == "input_ids":
                    values = F.pad(values, (0, store[name].shape[1] - values.shape[1]), value=self.pad)
                store[name][at : at + count] = values.to(self.device, store[name].dtype)
            self.filled[chunk.shape] += count
            self.num_drawn += count

    def follow(self, chunks: Iterator[Chunk]) -> None:
        """Take chunks from the workers for ever, in a thread."""

        def work() -> None:
            for chunk in chunks:
                self.add(chunk)

        threading.Thread(target=work, daemon=True).start()

    def batches(self, rng: np.random.Generator, batch_tokens: int) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        """For ever: a shape, and stored pictures of it with about the same length."""
        while True:
            shapes = [shape for shape, filled in self.filled.items() if filled > 0]
            weights = np.array([len(self.store[s]["lengths"]) for s in shapes], dtype=float)
            shape = str(rng.choice(shapes, p=weights / weights.sum()))
            store = self.store[shape]
            known = min(self.filled[shape], len(store["lengths"]))
            drawn = torch.from_numpy(rng.integers(0, known, 1024)).to(self.device)
            drawn = drawn[store["lengths"][drawn].argsort()]
            lengths = store["lengths"][drawn].tolist()
            batches, start = [], 0
            while start < len(drawn):  # from short to long: as many as fit the budget of tokens
                end = start + 1
                while end < len(drawn) and (end + 1 - start) * lengths[end] <= batch_tokens:
                    end += 1
                batches.append(drawn[start:end])
                start = end
            for i in rng.permutation(len(batches)):
                yield shape, {name: store[name][batches[i]] for name in self.FIELDS}


def shaken(batch: dict[str, torch.Tensor], number_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Zoomed, shifted and recoloured pictures `[B, 3, H, W]` in 0–1, and tokens with the new coordinates `[B, T]`."""
    images, boxes, slots = batch["images"], batch["boxes"], batch["box_slots"].long()
    count, device = len(images), images.device
    present = slots[..., 0] >= 0
    zoom = torch.exp(torch.empty(count, 2, device=device).uniform_(-0.25, 0.25))
    zoom[:, 1] = zoom[:, 0] * torch.exp(torch.empty(count, device=device).uniform_(-0.1, 0.1))
    room = 1 - zoom
    shift = torch.rand(count, 2, device=device) * room.abs() * torch.sign(room)
    moved = boxes * zoom.repeat(1, 2)[:, None] + shift.repeat(1, 2)[:, None]
    outside = ((moved < 0) | (moved > 1)).any(-1) & present
    still = outside.any(-1) | (torch.rand(count, device=device) < 0.25)  # a cut box would need another answer
    zoom[still], shift[still] = 1.0, 0.0
    boxes = boxes * zoom.repeat(1, 2)[:, None] + shift.repeat(1, 2)[:, None]

    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1] = 1 / zoom[:, 0], 1 / zoom[:, 1]
    theta[:, :, 2] = (1 - 2 * shift) / zoom - 1  # output place in −1…1 → place in the stored picture
    pixels = images.permute(0, 3, 1, 2).float() / 255
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    pixels = torch.where(
        still[:, None, None, None], pixels, F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    )
    return _recoloured(pixels), _renumbered(batch["input_ids"].long(), boxes, slots, present, number_ids)


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


def _renumbered(
    ids: torch.Tensor, boxes: torch.Tensor, slots: torch.Tensor, present: torch.Tensor, number_ids: torch.Tensor
) -> torch.Tensor:
    values = (boxes * 1000).round().long().clamp(0, 999)
    values[..., 2:] = torch.maximum(values[..., 2:], (values[..., :2] + 1).clamp(max=999))
    # absent slots write their token to a column past the end, which is cut off again
    padded = F.pad(ids, (0, 1))
    places = torch.where(present[..., None], slots, ids.shape[1])
    return padded.scatter(1, places.flatten(1), number_ids[values].flatten(1))[:, :-1]
