"""Runs whose vision features are kept on disk: the same losses, each picture looked at once, nothing believed."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxtune.config.load import load_config
from boxtune.errors import ConfigError, SaveError
from boxtune.models.families import FAMILIES
from boxtune.models.frozen_vision import Picture
from boxtune.models.vision_cache import VisionCache, used_bytes
from boxtune.training import features as features_module
from boxtune.training.auto import fit_training
from boxtune.training.features import RunFeatures, check_cache_folder, why_not
from boxtune.training.run import train
from training.runs import SHORT, in_turn, settings, short_run, weights, write_coco

each_family = pytest.mark.parametrize("model_type", FAMILIES)
LORA = (  # of six images, two a step
    "adapter.language=lora",
    "evaluation.every=none",
    "trainer.max_steps=7",
    "trainer.schedule=constant",
    "trainer.warmup_fraction=0",
)
HEAD_ALONE = (
    "model.detection_head=true",
    "detection_head.num_queries=5",
    "detection_head.caption_layers=1",
    "detection_head.width=32",
    *(f"adapter.{area}=frozen" for area in ("language", "vision", "merger")),
)
CAME = re.compile(r"Vision cache: (\d+) of (\d+) pictures came from it, (\d+) were looked at")


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="module")
def plain(coco, tmp_path_factory):
    """What comes out without a cache: the folder, and the result of the run."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    return folder, short_run(coco, folder, *LORA, "model.vision_cache=none")[0]


def counts(said: str) -> tuple[int, ...]:
    """Pictures that came from the cache, all, and those that the tower looked at."""
    found = CAME.search(said)
    assert found is not None, said
    return tuple(map(int, found.groups()))


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


def same(found, expected) -> bool:
    """To rounding: on a GPU sums are taken in another order where other pictures are in the batch."""
    tolerance = 1e-4 if torch.cuda.is_available() else 1e-6
    return dict(found.losses) == pytest.approx(dict(expected.losses), rel=tolerance)


# ---- the same numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("batching", ["padded", "packed"])
@each_family
def test_the_same_losses_and_each_picture_is_looked_at_once(coco, tmp_path, model_type, batching):
    how = (*LORA, f"model.name=tiny:{model_type}", f"collator.batching={batching}", "data.num_workers=0")
    without, silent = short_run(coco, tmp_path / "without", *how, "model.vision_cache=none")
    filling, said = short_run(coco, tmp_path / "filling", *how, f"model.vision_cache={tmp_path / 'cache'}")
    reading, later = short_run(coco, tmp_path / "reading", *how, f"model.vision_cache={tmp_path / 'cache'}")
    assert same(filling, without)
    assert same(reading, without)
    for name, weight in weights(tmp_path / "without").items():
        torch.testing.assert_close(weights(tmp_path / "reading")[name], weight, rtol=1e-5, atol=1e-7)
    kept, total, looked = counts(said)
    assert (kept + looked, total) == (14, 14)
    assert 6 <= looked < 14  # a batch may be made before the one before it is written
    assert len(files(tmp_path / "cache")) == 6
    assert counts(later) == (14, 14, 0)
    assert "features of 6 pictures are there" in later
    assert "Vision cache: not used, model.vision_cache=none" in silent
    assert json.loads((tmp_path / "without" / "run.json").read_text())["speed"]["vision_cache"] is None
    assert (
        str(tmp_path / "cache") in json.loads((tmp_path / "filling" / "run.json").read_text())["speed"]["vision_cache"]
    )


def test_workers_read_from_it(coco, plain, tmp_path):
    how = (*LORA, f"model.vision_cache={tmp_path / 'cache'}", "data.num_workers=2")
    filling, said = short_run(coco, tmp_path / "filling", *how)
    reading, later = short_run(coco, tmp_path / "reading", *how)
    assert same(filling, plain[1])
    assert same(reading, plain[1])
    assert counts(said)[1] == counts(later)[0] == 14


def test_packed_rows_with_a_budget_of_tokens_and_accumulated_batches(coco, tmp_path):
    how = (*LORA, "collator.batching=packed", "collator.token_budget=120", "trainer.gradient_accumulation_steps=2")
    without, _ = short_run(coco, tmp_path / "without", *how, "model.vision_cache=none")
    filling, said = short_run(coco, tmp_path / "filling", *how, f"model.vision_cache={tmp_path / 'cache'}")
    assert same(filling, without)
    assert counts(said)[0] > 0


@pytest.mark.parity
def test_a_detection_head_reads_kept_features_too(coco, tmp_path):
    how = (*HEAD_ALONE, "trainer.max_steps=5", "evaluation.every=none")
    without, _ = short_run(coco, tmp_path / "without", *how, "model.vision_cache=none")
    short_run(coco, tmp_path / "filling", *how, f"model.vision_cache={tmp_path / 'cache'}")
    reading, said = short_run(coco, tmp_path / "reading", *how, f"model.vision_cache={tmp_path / 'cache'}")
    assert same(reading, without)
    assert counts(said) == (10, 10, 0)


def test_a_resumed_run_equals_an_unbroken_one(coco, plain, tmp_path):
    how = (*LORA, f"model.vision_cache={tmp_path / 'cache'}")
    _, said = short_run(coco, tmp_path / "run", *how, "trainer.max_steps=4")
    assert counts(said)[1] == 8
    resumed, later = short_run(coco, tmp_path / "run", *how, resume=True)
    assert same(resumed, plain[1])
    assert counts(later) == (6, 6, 0)
    for name, weight in weights(plain[0]).items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], weight, rtol=1e-5, atol=1e-7)


def test_a_run_may_be_resumed_without_it(coco, plain, tmp_path):
    short_run(coco, tmp_path / "run", *LORA, f"model.vision_cache={tmp_path / 'cache'}", "trainer.max_steps=4")
    resumed, said = short_run(coco, tmp_path / "run", *LORA, "model.vision_cache=none", resume=True)
    assert same(resumed, plain[1])
    assert "not used" in said


@pytest.mark.parity
@pytest.mark.slow
def test_two_processes_share_a_folder(coco, tmp_path):
    """Each of them looks at its own pictures, and finds those of the other in the rounds after."""
    runs = [
        ["train", "--data", str(coco), *SHORT, *LORA, "trainer.per_device_train_batch_size=1", "model.device=cpu",
         f"model.vision_cache={cache}", "--output-dir", str(tmp_path / name)]
        for name, cache in (("without", "none"), ("filling", tmp_path / "cache"), ("reading", tmp_path / "cache"))
    ]  # fmt: skip
    said = " ".join(in_turn(runs).split())  # lines are folded for a narrow terminal
    (kept, total, _), last = [tuple(map(int, found)) for found in CAME.findall(said)]
    assert total == 14
    assert kept > 0
    assert last == (14, 14, 0)  # of both processes together
    for name, weight in weights(tmp_path / "without").items():
        for run in ("filling", "reading"):
            torch.testing.assert_close(weights(tmp_path / run)[name], weight, rtol=1e-5, atol=1e-7)


# ---- never the features of something else ---------------------------------------------------------------------------


def test_other_pictures_limits_and_towers_meet_no_old_features(tmp_path):
    data, cache = write_coco(tmp_path / "data"), f"model.vision_cache={tmp_path / 'cache'}"
    short_run(data, tmp_path / "first", *LORA, cache)
    _, again = short_run(data, tmp_path / "again", *LORA, cache)
    assert counts(again)[2] == 0
    pixels = np.array(Image.open(data / "1.png"))
    Image.fromarray(255 - pixels).save(data / "1.png")
    _, changed = short_run(data, tmp_path / "changed", *LORA, cache)
    assert 1 <= counts(changed)[2] <= 3
    assert len(files(tmp_path / "cache")) == 7
    _, smaller = short_run(data, tmp_path / "smaller", *LORA, cache, "model.max_pixels=6272")
    assert counts(smaller)[2] >= 6
    assert "features of 0 pictures are there" in smaller
    _, other = short_run(data, tmp_path / "other", *LORA, cache, "model.name=tiny:qwen2_5_vl")
    assert counts(other)[2] >= 6
    _, rounded = short_run(data, tmp_path / "rounded", *LORA, cache, "model.dtype=bfloat16")
    assert counts(rounded)[2] >= 6
    assert len({file.parent for file in files(tmp_path / "cache")}) == 4


def test_damaged_features_are_computed_anew_and_told(coco, plain, tmp_path):
    cache = f"model.vision_cache={tmp_path / 'cache'}"
    short_run(coco, tmp_path / "filling", *LORA, cache)
    whole = {file: file.read_bytes() for file in files(tmp_path / "cache")}
    cut, turned = list(whole)[:2]
    cut.write_bytes(whole[cut][:-7])
    turned.write_bytes(whole[turned][:-1] + bytes([whole[turned][-1] ^ 1]))
    reading, said = short_run(coco, tmp_path / "reading", *LORA, cache)
    assert same(reading, plain[1])
    assert "Such features are computed anew" in said
    assert "2 of them damaged" in said
    assert files(tmp_path / "cache") == sorted(whole)
    mended, said = short_run(coco, tmp_path / "mended", *LORA, cache)
    assert same(mended, plain[1])
    assert counts(said) == (14, 14, 0)


# ---- room and rights ------------------------------------------------------------------------------------------------


def test_it_does_not_grow_beyond_its_limit(coco, plain, tmp_path):
    cache = tmp_path / "cache"
    short_run(coco, tmp_path / "unbounded", *LORA, f"model.vision_cache={cache}")
    limit = used_bytes(cache) // 2
    small = (f"model.vision_cache={tmp_path / 'small'}", f"model.vision_cache_gb={limit / 1e9:.9f}")
    for run in ("first", "second"):
        result, said = short_run(coco, tmp_path / run, *LORA, *small)
        assert same(result, plain[1])
        assert said.count("is full") == 1
        assert "raise model.vision_cache_gb" in said
        assert 2 <= len(files(tmp_path / "small")) <= 3
        assert used_bytes(tmp_path / "small") <= limit
    assert counts(said)[0] > 0


def test_a_disk_that_fills_up_ends_no_run(coco, plain, tmp_path, monkeypatch):
    write = VisionCache.write
    written = []

    def until_full(cache, name, kept):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(name)
        return write(cache, name, kept)

    monkeypatch.setattr(VisionCache, "write", until_full)
    result, said = short_run(coco, tmp_path / "run", *LORA, f"model.vision_cache={tmp_path / 'cache'}")
    assert same(result, plain[1])
    assert said.count("cannot be written to (No space left on device)") == 1
    assert len(files(tmp_path / "cache")) == 3


def test_an_error_of_our_own_is_not_taken_for_a_full_disk(coco, tmp_path, monkeypatch):
    def broken(cache, name, kept):
        raise AssertionError("a fault of the program")

    monkeypatch.setattr(VisionCache, "write", broken)
    with pytest.raises(AssertionError, match="a fault of the program"):
        short_run(coco, tmp_path / "run", *LORA, f"model.vision_cache={tmp_path / 'cache'}")


def test_numbers_that_are_not_finite_are_not_kept(tmp_path):
    kept = RunFeatures(VisionCache(tmp_path, "a" * 40), 10**9)
    features = torch.ones(1, 8, 4)
    features[0, 5, 1] = torch.nan
    kept._keep([Picture(letter * 64, (1, 4, 4), 4, (1, 1), is_kept=False) for letter in "bc"], features)
    kept.close()
    assert [file.stem for file in files(tmp_path)] == ["b" * 64]


def test_what_waits_for_a_slow_disk_is_bounded(coco, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "_WAITING_BYTES", 0)
    result, said = short_run(coco, tmp_path / "run", *LORA, f"model.vision_cache={tmp_path / 'cache'}")
    assert same(result, plain[1])
    assert counts(said) == (0, 14, 14)
    assert files(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_written_to(coco, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match=r"file/cache cannot be written to \(Not a directory\): choose another folder"):
        train(settings(coco, tmp_path / "run", *LORA, f"model.vision_cache={tmp_path / 'file' / 'cache'}"))
    monkeypatch.setenv("BOXTUNE_CACHE", str(tmp_path / "file"))
    _, said = short_run(coco, tmp_path / "auto", *LORA)
    assert f"not used, {tmp_path / 'file' / 'vision'} cannot be written to (Not a directory)" in said


def test_a_folder_without_permission(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(features_module.tempfile, "TemporaryFile", refused)  # root may write anywhere
    with pytest.raises(SaveError, match="Permission denied"):
        check_cache_folder(load_config(None, [f"model.vision_cache={tmp_path / 'cache'}"]))


# ---- when it is used ------------------------------------------------------------------------------------------------

FITTED = (
    "data.path=somewhere",
    "adapter.language=lora",
    "adapter.vision=frozen",
    "adapter.merger=frozen",
    "data.augment=none",
    "trainer.num_train_epochs=3",
    "trainer.per_device_train_batch_size=4",
)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], ""),
        (["trainer.max_steps=26"], ""),  # 104 of 100 images
        (["trainer.max_steps=25"], "no picture comes twice"),
        (["trainer.max_steps=13", "trainer.gradient_accumulation_steps=2"], ""),
        (["trainer.num_train_epochs=1"], "no picture comes twice"),
        (["trainer.num_train_epochs=1.5"], ""),
        (["trainer.minutes=5"], "the number of rounds is not known"),
        (["trainer.minutes=5", "model.vision_cache=somewhere"], ""),
        (["trainer.num_train_epochs=1", "model.vision_cache=somewhere"], ""),
        (["model.vision_cache=none"], "model.vision_cache=none"),
        (["model.vision_cache=off"], "model.vision_cache=none"),
        (["data.augment=light"], "data.augment=light changes each picture"),
        (["data.flip=[horizontal]"], "mirrors pictures at random"),
        (["adapter.vision=lora"], "adapter.vision=lora trains the vision tower"),
        (["adapter.merger=full"], "adapter.merger=full trains the merger"),
        (["trainer.deepspeed=ds.json"], "no process with the whole tower"),
    ],
)
def test_auto_takes_it_where_it_is_exact_and_pays(overrides, reason):
    found = why_not(load_config(None, [*FITTED, *overrides]), 100)
    assert (reason in found) if reason else found == ""


def test_a_launcher_that_divides_the_tower_is_seen(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "ACCELERATE_USE_FSDP=true leaves no process" in why_not(load_config(None, FITTED), 100)


def test_small_data_is_not_augmented_where_a_cache_is_asked_for():
    for cache, augment in (("auto", "light"), ("none", "light"), ("somewhere", "none")):
        config = load_config(None, [*FITTED, "data.augment=auto", f"model.vision_cache={cache}"])
        assert fit_training(config, 10**6, 100, torch.device("cpu")).data.augment == augment


def test_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match=r"data.augment=strong changes each picture at every look: set model"):
        train(settings(tmp_path / "nowhere", tmp_path / "run", "data.augment=strong", "model.vision_cache=here"))


def test_refused_where_auto_trains_the_tower(coco, tmp_path):
    with pytest.raises(ConfigError, match=r"adapter.vision=full trains the vision tower: set model.vision_cache=none"):
        train(settings(coco, tmp_path / "run", f"model.vision_cache={tmp_path / 'cache'}"))
    assert files(tmp_path / "cache") == []


def test_by_itself_it_lies_in_the_users_folder_of_caches(coco, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("BOXTUNE_CACHE", str(tmp_path / "caches"))
    result, said = short_run(coco, tmp_path / "run", *LORA)
    assert same(result, plain[1])
    assert counts(said)[0] > 0
    assert f"Vision cache: {tmp_path / 'caches' / 'vision'}, features of 0 pictures are there" in said
    saved = load_config(tmp_path / "run" / "config.yaml").model
    assert (saved.vision_cache, saved.vision_cache_gb) == ("auto", "auto")  # holds on another machine, too
