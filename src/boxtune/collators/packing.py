"""Which samples share a row: as many as fill a budget of tokens, in an order that is still drawn at random."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from boxtune.errors import ConfigError

WINDOW = 256  # samples looked at to fill a row: more fill it hardly better, and company would be chosen by length
_DRAWS = 4  # orders that are tried for an epoch until one needs no more rows than the others had
_FEW_ROWS = 512  # where one row more or less shows
_STEPS = 64  # budgets that are tried between the least possible and the one given


def pack(order: Sequence[int], lengths: Sequence[int], budget: int, window: int = WINDOW) -> list[list[int]]:
    """Rows of samples, each sample once.

    A row begins with the sample that has waited longest; of those that wait, such are added as fill it best (subset
    sums, exact). So no sample waits for more rows than the window has samples.

    Args:
        order: samples, as they were shuffled.
        lengths: of every sample, in tokens.
        budget: tokens a row may have; a sample that is longer has a row for itself.
        window: how many samples wait.
    """
    arriving = iter(order)
    waiting = list(itertools.islice(arriving, window))
    rows = []
    while waiting:
        first = waiting.pop(0)
        places = _fullest(waiting, lengths, budget - lengths[first])
        rows.append([first, *(waiting.pop(place) for place in places)])
        waiting += itertools.islice(arriving, window - len(waiting))
    return rows


def _fullest(waiting: Sequence[int], lengths: Sequence[int], room: int) -> list[int]:
    """Places in `waiting`, last first, of samples that fill the room as far as any can, the first that do."""
    if room <= 0:
        return []
    reachable = [1]  # after so many samples: bit n says that some of them have n tokens together
    within = (2 << room) - 1
    for sample in waiting:
        reachable.append((reachable[-1] | reachable[-1] << lengths[sample]) & within)
        if reachable[-1] >> room:  # full
            break
    left, places = reachable[-1].bit_length() - 1, []
    for place in range(len(reachable) - 2, -1, -1):
        if not reachable[place] >> left & 1:  # not without this one
            places.append(place)
            left -= lengths[waiting[place]]
    return places


def least_budget(lengths: Sequence[int], budget: int, rows_per_step: int = 1) -> int:
    """The shortest budget that needs no more rows than this one.

    Fewer tokens then stand in the longest row, and the rows are more alike, which processes that wait for each other
    gain by. Where rows are many it is the budget itself.
    """
    num_rows = PackedSampler(lengths, budget, rows_per_step=rows_per_step).num_rows
    if num_rows > _FEW_ROWS:
        return budget
    least = max(max(lengths), -(-sum(lengths) // num_rows))
    for step in range(_STEPS):
        shorter = least + (budget - least) * step // _STEPS
        if PackedSampler(lengths, shorter, rows_per_step=rows_per_step).num_rows <= num_rows:
            return shorter
    return budget


class PackedSampler(Sampler[list[int]]):
    """Batches of sample numbers for a DataLoader, each a row within a budget of tokens.

    Every epoch shows every sample once, in new company, and has the same number of rows, whole steps of them, which a
    run that is resumed counts by, in however many processes: where chance makes fewer, the rows with the most samples
    are parted; where no draw makes as few, the company is that of the first epoch.

    Args:
        lengths: tokens of each sample, at least one.
        budget: tokens a row may have.
        seed: of the order.
        rank, num_processes: this process takes every so-many-th row.
        rows_per_step: of all processes, accumulated ones included.

    Raises:
        ConfigError: a sample is longer than the budget.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        budget: int,
        seed: int = 0,
        *,
        rank: int = 0,
        num_processes: int = 1,
        rows_per_step: int | None = None,
    ) -> None:
        longest = max(lengths)
        if longest > budget:
            raise ConfigError(
                f"collator.token_budget={budget} is less than the longest sample, which has {longest} tokens: raise "
                "it, or lower model.max_pixels (or data.examples, where there are some)."
            )
        self.lengths, self.budget, self.seed = lengths, budget, seed
        self.rank, self.num_processes = rank, num_processes
        self.epoch = 0
        enough = max(len(self._packed(0, draw)) for draw in range(_DRAWS))
        self.rows_per_step = rows_per_step or num_processes
        self.num_rows = -(-enough // self.rows_per_step) * self.rows_per_step

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
        drawn = (self._packed(epoch, draw) for draw in range(_DRAWS))
        rows = next((rows for rows in drawn if len(rows) <= self.num_rows), None) or self._packed(0, 0)
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

    def _packed(self, epoch: int, draw: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self._seed(epoch))
        orders = [torch.randperm(len(self.lengths), generator=generator) for _ in range(draw + 1)]
        return pack(orders[draw].tolist(), self.lengths, self.budget)

    def _seed(self, epoch: int) -> int:
        return self.seed * 1_000_003 + 2 * epoch
