"""The newest pictures on the GPU, and batches of them: each time another view, in other colours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stream import MAX_BOXES, TILE, Chunk
from torch.nn import functional as F

from boxtune.models.sending import sent


class Pool:
    """The newest pictures of each shape on the GPU; filled by a thread, oldest overwritten.

    Lengths stay on the CPU, where batches are put together.
    """

    FIELDS = ("images", "views", "input_ids", "boxes", "labels")

    def __init__(self, data: dict[str, Any], device: torch.device, pad: int) -> None:
        total, max_boxes = sum(data["shapes"].values()), data.get("max_boxes", MAX_BOXES)
        self.device, self.pad, self.num_drawn = device, pad, 0
        self.lock = threading.Lock()  # numbers here and tensors there are of the same picture
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.store: dict[str, dict[str, torch.Tensor]] = {}
        # [n, V, 3] where the answer starts, the whole length, and the number of boxes
        self.lengths: dict[str, np.ndarray] = {}
        self.filled: dict[str, int] = {}
        for shape, weight in data["shapes"].items():
            rows, columns = (int(side) for side in shape.split("x"))
            size = max(data["chunk"], int(data["pool"] * weight / total) // data["chunk"] * data["chunk"])
            kinds = {
                "images": ((size, rows * TILE, columns * TILE, 3), torch.uint8),
                "views": ((size, data["views"], 4), torch.float32),
                "input_ids": ((size, data["views"], data["max_tokens"]), torch.int16),
                "boxes": ((size, data["views"], max_boxes, 4), torch.float32),
                "labels": ((size, data["views"], max_boxes, data.get("label_tokens", 0)), torch.int16),
            }
            self.store[shape] = {name: torch.zeros(s, dtype=t, device=device) for name, (s, t) in kinds.items()}
            self.store[shape]["input_ids"].fill_(pad)
            self.lengths[shape] = np.zeros((size, data["views"], 3), np.int64)
            self.filled[shape] = 0

    def add(self, chunk: Chunk) -> None:
        """Put a chunk in, over the oldest of its shape."""
        store, moved = self.store[chunk.shape], self._moved(chunk)
        size, count = len(store["images"]), len(chunk.images)
        ids = moved["input_ids"]
        moved["input_ids"] = F.pad(ids, (0, store["input_ids"].shape[-1] - ids.shape[-1]), value=self.pad)
        numbers = torch.stack([chunk.answer_starts, chunk.lengths, chunk.num_boxes], -1).numpy()
        at = self.filled[chunk.shape] % size
        with self.lock:
            for name, values in moved.items():
                store[name][at : at + count] = values
            self.lengths[chunk.shape][at : at + count] = numbers
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

    def mixed_batches(self, rng: np.random.Generator, batch_tokens: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """For ever: a shape, and any stored pictures of it; for questions, which are of about one length."""
        while True:
            shape = self._shape(rng)
            rows, columns = (int(side) for side in shape.split("x"))
            yield shape, self._batch(shape, *self._any(rng, shape, max(1, batch_tokens // (rows * columns))))

    def _shape(self, rng: np.random.Generator) -> str:
        shapes = [shape for shape, filled in self.filled.items() if filled > 0]
        weights = np.array([len(self.lengths[s]) for s in shapes], dtype=float)
        return str(rng.choice(shapes, p=weights / weights.sum()))

    def _any(self, rng: np.random.Generator, shape: str, count: int) -> np.ndarray:
        """Numbers of stored pictures of a shape, and of a view of each: `[2, count]`."""
        size, views = self.lengths[shape].shape[:2]
        known = min(self.filled[shape], size)
        return np.stack([rng.integers(0, known, count), rng.integers(0, views, count)])

    def batches(self, rng: np.random.Generator, batch_tokens: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """For ever: a shape, and stored pictures of it with about the same length."""
        while True:
            shape = self._shape(rng)
            starts_and_lengths = self.lengths[shape]
            drawn = self._any(rng, shape, 1024)
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
        store = self.store[shape]
        with self.lock:
            places = self.lengths[shape][which, view]
            both = sent(torch.from_numpy(np.stack([which, view, places[:, 0], places[:, 1]])), self.device)
            tensors = {
                "images": store["images"][both[0]],
                **{name: store[name][both[0], both[1]] for name in self.FIELDS if name != "images"},
            }
        return {
            **tensors,
            "answer_starts": both[2],
            "lengths": both[3],
            "num_boxes": places[:, 2],
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
