"""Which samples share a row: as many as fit into a budget of tokens, in an order that is still drawn at random."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from boxtune.errors import ConfigError

WINDOW = 256  # samples looked at to fill a row: more fill it hardly better, and company would be chosen by length


def pack_best_fit(order: Sequence[int], lengths: Sequence[int], budget: int, window: int = WINDOW) -> list[list[int]]:
    """Rows of samples, each sample once.

    A row begins with the sample that has waited longest; then the longest that still fits is added, again and again,
    out of those that wait (best fit, as for bins). So no sample waits for more rows than the window has samples.

    Args:
        order: samples, as they were shuffled.
        lengths: of every sample, in tokens.
        budget: tokens a row may have; a sample that is longer has a row for itself.
        window: how many samples wait.
    """
    arriving = iter(order)
    by_length: list[tuple[int, int, int]] = []  # (length, −turn, sample) of those that wait, shortest first
    by_turn: dict[int, tuple[int, int, int]] = {}  # turn → the same, in the order of arrival
    turn = 0

    def take(entry: tuple[int, int, int]) -> int:
        del by_length[bisect.bisect_left(by_length, entry)]
        del by_turn[-entry[1]]
        return entry[2]

    rows: list[list[int]] = []
    while True:
        while len(by_length) < window and (sample := next(arriving, None)) is not None:
            entry = (lengths[sample], -turn, sample)
            bisect.insort(by_length, entry)
            by_turn[turn] = entry
            turn += 1
        if not by_length:
            return rows
        first = next(iter(by_turn.values()))
        row, room = [take(first)], budget - first[0]
        while (place := bisect.bisect_right(by_length, (room, 1, 0))) > 0:
            entry = by_length[place - 1]
            room -= entry[0]
            row.append(take(entry))
        rows.append(row)


class PackedSampler(Sampler[list[int]]):
    """Batches of sample numbers for a DataLoader, each a row within a budget of tokens.

    Every epoch shows every sample once, in new company, and has the same number of rows, which a run that is resumed
    counts by: where chance makes fewer, the rows with the most samples are parted.

    Args:
        lengths: tokens of each sample.
        budget: tokens a row may have.
        seed: of the order.
        rank, num_processes: this process takes every so-many-th row.

    Raises:
        ConfigError: a sample is longer than the budget.
    """

    def __init__(
        self, lengths: Sequence[int], budget: int, seed: int = 0, *, rank: int = 0, num_processes: int = 1
    ) -> None:
        longest = max(lengths)
        if longest > budget:
            raise ConfigError(
                f"collator.token_budget={budget} is less than the longest sample, which has {longest} tokens: raise "
                "it, or lower model.max_pixels."
            )
        self.lengths, self.budget, self.seed = lengths, budget, seed
        self.rank, self.num_processes = rank, num_processes
        self.epoch = 0
        everything = range(len(lengths))
        # packed all at once, the number of rows does not depend on the order, and it is hardly ever beaten by a window
        needed = max(len(pack_best_fit(everything, lengths, budget, len(lengths))), len(self._packed(0)))
        self.num_rows = -(-needed // num_processes) * num_processes

    def set_epoch(self, epoch: int) -> None:
        """Whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Rows of this process in an epoch."""
        return self.num_rows // self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        rows = self.rows(self.epoch)
        yield from rows[self.rank :: self.num_processes]

    def rows(self, epoch: int) -> list[list[int]]:
        """All rows of an epoch, over all processes."""
        rows = self._packed(epoch)
        if len(rows) > self.num_rows:
            rows = pack_best_fit(self._order(epoch), self.lengths, self.budget, len(self.lengths))
        while len(rows) < self.num_rows:
            fullest = max(rows, key=len)
            if len(fullest) == 1:  # fewer samples than processes: some are seen twice, as accelerate does it
                rows += rows[: self.num_rows - len(rows)]
                continue
            rows.remove(fullest)
            rows += [fullest[::2], fullest[1::2]]
        draw = torch.Generator().manual_seed(self._seed(epoch) + 1)
        return [rows[index] for index in torch.randperm(len(rows), generator=draw).tolist()]

    @property
    def fullness(self) -> float:
        """Share of the rows' budget that is filled; the same in every epoch."""
        return sum(self.lengths) / (self.num_rows * self.budget)

    @property
    def samples_per_row(self) -> float:
        """On average."""
        return len(self.lengths) / self.num_rows

    def _packed(self, epoch: int) -> list[list[int]]:
        return pack_best_fit(self._order(epoch), self.lengths, self.budget)

    def _order(self, epoch: int) -> list[int]:
        draw = torch.Generator().manual_seed(self._seed(epoch))
        return torch.randperm(len(self.lengths), generator=draw).tolist()

    def _seed(self, epoch: int) -> int:
        return self.seed * 1_000_003 + 2 * epoch
