"""Which images a run learns from, which are watched in its course, and which it is judged by at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from boxtune.collators.encode import SampleEncoder
from boxtune.collators.lengths import num_image_tokens
from boxtune.config.engines import engine_of
from boxtune.config.schema import Config
from boxtune.console import say
from boxtune.data.columns import record_columns
from boxtune.data.dataset import DetectionDataset, available_splits, load_dataset
from boxtune.data.examples import ExampleDataset, check_number
from boxtune.data.sample import Sample
from boxtune.data.splits import UNSPLIT, canonical_split
from boxtune.errors import DataError

_WATCHED_SHARE = 0.2  # of train at most, where the watched images are taken from it


@dataclass(frozen=True)
class RunData:
    """The images of a run.

    Attributes:
        train: to learn from.
        val: to judge by at the end, or None.
        watched: to evaluate on in the course of the run, none of them in `train` (unless `val` is); None: none are.
    """

    train: DetectionDataset
    val: DetectionDataset | None = None
    watched: DetectionDataset | None = None


def load_data(config: Config, console: Console) -> RunData:
    """Open the sets of a run; a part of train is held out where there is no val split, and to watch where asked for.

    Raises:
        DataError: see `load_dataset`; no image is left to train on; nothing to watch, though it is asked for.
    """
    data = config.data
    path, known = data.path, None if data.format == "auto" else data.format
    assert path is not None  # check_config
    splits = available_splits(path, known)
    train_split, val_split = canonical_split(data.train_split), canonical_split(data.val_split)

    def load(split: str | None) -> DetectionDataset:
        name = f"skipped-{split or 'all'}.jsonl"
        skipped = Path(config.output_dir) / name if data.on_error == "skip" else None
        dataset = load_dataset(path, split, known, data.on_error, skipped)
        if dataset.skipped:
            say(console, f"{len(dataset.skipped)} bad records left out, see {skipped}.")
        return dataset

    undivided = splits == [UNSPLIT]
    if undivided and train_split not in ("train", UNSPLIT):
        raise DataError(f"{path} has no splits, so none called '{data.train_split}': leave data.train_split out.")
    train_set = load(None if undivided else train_split)
    val_set: DetectionDataset | None = None
    needs_val = config.evaluation.at_end or (config.must_watch and config.watch_split == "val")
    if val_split in splits and val_split != train_split:
        val_set = load(val_split)
    elif val_split != train_split and needs_val and data.val_fraction > 0 and len(train_set) > 1:
        train_set, val_set = train_set.split_off(data.val_fraction, config.trainer.seed)
        say(console, f"No '{val_split}' split in {path}: {len(val_set)} of the images are held out.")
        val_set = val_set if len(val_set) else None
    train_set, watched = _watched(config, train_set, train_set if val_split == train_split else val_set)
    if data.max_train_images is not None:
        train_set = train_set.subset(range(min(data.max_train_images, len(train_set))))
    if len(train_set) == 0:
        raise DataError(f"No image of {data.path} is left to train on: lower data.val_fraction, or add images.")
    check_number(data.examples, train_set)
    if val_split == train_split:
        say(console, "data.val_split is data.train_split: evaluated on the images it was trained on.")
        val_set = train_set
    return RunData(train_set, val_set, watched)


def _watched(
    config: Config, train_set: DetectionDataset, val_set: DetectionDataset | None
) -> tuple[DetectionDataset, DetectionDataset | None]:
    """What is left of train, and the watched images, always the same ones for a seed."""
    asked, seed = config.evaluation, config.trainer.seed
    if asked.every == "none" or engine_of(config) != "ddp":
        return train_set, None
    if config.watch_split == "train":
        count = min(asked.watch_images, int(len(train_set) * _WATCHED_SHARE))
        if count == 0:
            raise DataError(
                f"{len(train_set)} images to train on are too few to hold some out and watch them: set "
                "evaluation.watch_split=val, or add images."
            )
        rest, watched = train_set.split_off(count / len(train_set), seed)
    elif val_set is None:
        if config.must_watch:
            raise DataError(
                "There is no val split to watch: set evaluation.watch_split=train, or data.val_fraction above 0."
            )
        return train_set, None
    else:
        count = min(asked.watch_images, len(val_set))
        rest = train_set
        watched = val_set if count == len(val_set) else val_set.split_off(count / len(val_set), seed)[1]
    if config.chooses_by_watching and not any(len(record.detections) for record in watched.records):
        raise DataError(
            f"No object is in the {len(watched)} images that are watched, so there is no AP to choose by: raise "
            "evaluation.watch_images."
        )
    return rest, watched


def check_shapes(encoder: SampleEncoder, data: RunData) -> None:
    """Find images that the processor refuses before the first step, not hours after it.

    Raises:
        DataError: names the first one.
    """
    seen: set[tuple[int, int]] = set()
    for samples in (data.train, data.val, data.watched):
        sizes = (
            hw for batch in record_columns(() if samples is None else samples.records) for hw in batch.image_hw.tolist()
        )
        for index, (height, width) in enumerate(sizes):
            if (height, width) in seen:
                continue
            seen.add((height, width))
            try:
                num_image_tokens(encoder, (height, width))
            except ValueError as error:
                assert samples is not None
                raise DataError(
                    f"{samples.records[index].source}: the model takes no image of {width}×{height} px ({error}): "
                    "cut it into parts, or leave it out."
                ) from None


def augmented(config: Config, train_set: DetectionDataset) -> Sequence[Sample]:
    """The images as they are shown in training: changed, and with worked examples, where that is asked for."""
    data, seed = config.data, config.trainer.seed
    assert data.augment != "auto", "fitted before"
    shown: Sequence[Sample] = train_set
    if data.augment != "none" or data.flip:
        from boxtune.data.augmentation import AugmentedDataset, build_transform

        shown = AugmentedDataset(train_set, build_transform(data.augment, data.flip), seed)
    return ExampleDataset(shown, data.examples, seed) if data.examples else shown
