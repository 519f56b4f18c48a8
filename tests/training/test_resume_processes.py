"""In how many processes a run may go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxtune.errors import ConfigError
from boxtune.training.resume import check_processes

Sitting = tuple[int, int, int]  # processes, batch, accumulation


def check(
    before: Sitting, now: Sitting, *, budget: int | None = None, engines: tuple[str, str] = ("ddp", "ddp")
) -> None:
    settings = [
        {
            "trainer.per_device_train_batch_size": batch,
            "trainer.gradient_accumulation_steps": accumulation,
            "collator.token_budget": budget,
        }
        for _, batch, accumulation in (before, now)
    ]
    counts = (before[0], now[0])
    records = [{"num_processes": n, "engine": who} for n, who in zip(counts, engines, strict=True)]
    check_processes(Path("run"), *settings, *records)


@pytest.mark.parametrize(
    ("before", "now"), [((1, 4, 1), (2, 2, 1)), ((4, 1, 2), (1, 1, 8)), ((2, 2, 3), (3, 2, 2)), ((1, 4, 1), (1, 2, 2))]
)
def test_the_same_step_otherwise_shared(before, now):
    check(before, now)
    check(before, now, engines=("fsdp", "ddp"))


@pytest.mark.parametrize(
    ("before", "now", "remedy"),
    [
        ((2, 1, 1), (1, 1, 1), "accumulation_steps=2, so"),
        ((1, 4, 1), (2, 4, 1), "accumulation_steps=1 and trainer.per_device_train_batch_size=2"),
        ((1, 4, 2), (2, 4, 2), "accumulation_steps=1, so"),
        ((1, 3, 1), (2, 3, 1), "a number of processes that divides 3"),
    ],
)
def test_another_step_is_refused_with_the_remedy(before, now, remedy):
    with pytest.raises(ConfigError, match="A step of the run in run is") as found:
        check(before, now)
    assert remedy in str(found.value)


def test_rows_by_tokens_keep_their_images():
    check((2, 7, 1), (1, 7, 2), budget=8192)
    with pytest.raises(ConfigError, match="divides 1,"):
        check((1, 8, 1), (2, 4, 1), budget=8192)


def test_files_of_deepspeed_know_their_number():
    check((2, 1, 1), (2, 1, 1), engines=("deepspeed", "deepspeed"))
    for now, engines in [((1, 2, 1), ("deepspeed", "deepspeed")), ((2, 1, 1), ("deepspeed", "ddp"))]:
        with pytest.raises(ConfigError, match="goes on under DeepSpeed, in as many processes"):
            check((2, 1, 1), now, engines=engines)
