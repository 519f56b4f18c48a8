"""Which images are learned from, watched and judged by: never the same ones, and always the same for a seed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from boxtune.errors import DataError
from boxtune.training.sets import RunData, load_data
from training.runs import settings, write_coco


@pytest.fixture(scope="module")
def undivided(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "all", 20)


@pytest.fixture(scope="module")
def divided(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "divided"
    write_coco(folder / "train", 20)
    write_coco(folder / "val", 8, seed=1)
    return folder


def sets_of(data: Path, *overrides: str) -> RunData:
    return load_data(settings(data, Path("unused"), *overrides), Console(file=io.StringIO()))


def ids(samples) -> list[str]:
    return [] if samples is None else [record.id for record in samples.records]


def sizes(data: RunData) -> tuple[int, int, int]:
    return len(ids(data.train)), len(ids(data.val)), len(ids(data.watched))


AT_END, KEEP, PATIENCE = "evaluation.at_end=true", "evaluation.keep_best=true", "trainer.early_stopping_patience=2"


@pytest.mark.parametrize(
    ("expected", "overrides"),
    [
        ((20, 8, 8), []),
        ((20, 8, 3), ["evaluation.watch_images=3"]),
        ((20, 8, 0), ["evaluation.every=none"]),
        ((20, 8, 0), ["trainer.deepspeed=ds.json"]),
        ((18, 8, 2), [KEEP, "evaluation.watch_images=2"]),
        ((16, 8, 4), [KEEP]),  # a fifth at most
        ((16, 8, 4), [PATIENCE]),
        ((20, 8, 8), [KEEP, "evaluation.watch_split=val"]),
        ((17, 8, 3), ["evaluation.watch_split=train", "evaluation.watch_images=3"]),
        ((10, 8, 4), [KEEP, "data.max_train_images=10"]),
        ((16, 16, 4), [KEEP, "data.val_split=train"]),
        ((20, 20, 16), ["data.val_split=train"]),
    ],
)
def test_with_a_val_split(expected, overrides, divided):
    assert sizes(sets_of(divided, AT_END, *overrides)) == expected


@pytest.mark.parametrize(
    ("expected", "overrides"),
    [
        ((20, 0, 0), []),  # nothing is held out for what nobody asked for
        ((18, 2, 2), [AT_END]),
        ((18, 2, 2), ["evaluation.every=5"]),
        ((16, 0, 4), [KEEP]),
        ((15, 2, 3), [KEEP, AT_END]),
        ((18, 2, 2), [KEEP, "evaluation.watch_split=val"]),
    ],
)
def test_without_a_val_split(expected, overrides, undivided):
    assert sizes(sets_of(undivided, *overrides)) == expected


def test_sets_share_nothing_and_stay_the_same(undivided):
    first, second = (sets_of(undivided, KEEP, AT_END) for _ in range(2))
    assert [ids(part) for part in (first.train, first.val, first.watched)] == [
        ids(part) for part in (second.train, second.val, second.watched)
    ]
    together = ids(first.train) + ids(first.val) + ids(first.watched)
    assert sorted(together) == sorted(set(together))
    assert len(together) == 20
    other = sets_of(undivided, KEEP, AT_END, "trainer.seed=7")
    assert ids(other.watched) != ids(first.watched)


def test_watched_images_of_val_are_a_part_of_it(divided):
    found = sets_of(divided, "evaluation.watch_images=3")
    assert set(ids(found.watched)) < set(ids(found.val))


def test_too_few_images(tmp_path):
    few = write_coco(tmp_path / "few", 4)
    with pytest.raises(DataError, match=r"4 images to train on are too few to hold some out.*watch_split=val"):
        sets_of(few, KEEP)
