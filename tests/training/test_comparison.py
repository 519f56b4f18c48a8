"""Recipes against each other on tiny models: the same budget for each, figures from the folders, finished runs kept."""

from __future__ import annotations

import io
import json
import re
import time

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file

from boxtune.config.load import load_config
from boxtune.errors import BoxtuneError, ConfigError
from boxtune.evaluation.intervals import Redrawn
from boxtune.models.areas import summarize
from boxtune.models.families import family
from boxtune.models.load import load_model
from boxtune.training import comparison_run
from boxtune.training.comparison import compare_recipes
from boxtune.training.comparison_results import print_recipes, spread
from boxtune.training.comparison_run import RunResult, num_trained, read_result
from training.runs import SHORT, write_coco

TINY = "tiny:qwen2_vl"
OVERRIDES = [
    *(one for one in SHORT if not one.startswith(("model.name", "trainer.max_steps", "evaluation.at_end"))),
    "data.val_fraction=0.4",
]
RECIPES = ["lora", "r3"]  # one stage and two, without and with 4 bits


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("data") / "coco", 10)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def compare(data, folder, names=RECIPES, **options):
    said = quiet()
    settings = {"model": TINY, "num_images": 5, "num_seeds": 2, "overrides": OVERRIDES, "isolated": False}
    result = compare_recipes(names, str(data), folder, console=said, **(settings | options))
    return result, said.file.getvalue()


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison") / "runs"
    return folder, *compare(data, folder)


def test_every_recipe_sees_the_same_number_of_images(compared):
    """5 images are 8: steps of 2 images, and r3 divides them among two stages."""
    folder, result, said = compared
    assert result.num_images == 8
    assert "8 images instead of 5" in said
    for recipe in ("lora", "r3-two-stage"):
        for seed in (0, 1):
            run = read_result(folder / recipe / f"seed-{seed}")
            assert run.num_steps == 4
            config = load_config(folder / recipe / f"seed-{seed}" / "config.yaml")
            assert (config.trainer.seed, config.trainer.per_device_train_batch_size) == (seed, 2)


def test_rows(compared):
    folder, result, _ = compared
    assert [row.recipe for row in result.rows] == ["lora", "r3-two-stage"]
    lora, two_stage = result.rows
    assert (len(lora.num_trained), len(two_stage.num_trained)) == (1, 2)
    assert two_stage.num_trained[1] == lora.num_trained[0]
    for row in result.rows:
        assert len(row.metrics) == 2
        assert row.minutes > 0
        assert row.memory == "rss"
        assert row.peak_bytes > 10_000_000
        for name in ("map", "map50", "mean_iou"):
            figure, of_seeds = row.figures[name], [getattr(one, name) for one in row.metrics]
            if None in of_seeds:  # an untrained model finds nothing
                assert (figure.mean, figure.interval) == (None, None)
            else:
                assert figure.mean == pytest.approx(np.mean(of_seeds))
                assert figure.interval.low <= figure.mean <= figure.interval.high
        assert row.looks == ((), ())
    assert lora.against_baseline == {}
    assert two_stage.against_baseline["map"].value == two_stage.figures["map"].mean - lora.figures["map"].mean
    assert json.loads((folder / "compare.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    said = Console(file=io.StringIO(), width=80)
    print_recipes(result, said)
    for text in ("r3-two-stage", f"{two_stage.num_trained[0]:,} +", f"{two_stage.num_trained[1]:,}", "GiB\n"):
        assert text in said.file.getvalue()


def test_a_finished_run_is_not_trained_again_and_a_lost_one_is(compared, data):
    folder, before, _ = compared
    kept, lost = folder / "lora" / "seed-0", folder / "lora" / "seed-1"
    (lost / "result.json").unlink()
    (lost / "run" / "half.txt").write_text("left by a run that was killed")
    stamp = (kept / "result.json").stat().st_mtime_ns
    start = time.time()
    after, said = compare(data, folder)
    assert said.count("finished before") == 3
    assert (kept / "result.json").stat().st_mtime_ns == stamp
    assert (lost / "result.json").stat().st_mtime >= start - 1
    assert not (lost / "run" / "half.txt").exists()
    assert [row.figures for row in after.rows] == [row.figures for row in before.rows]


@pytest.mark.slow
def test_a_run_of_its_own_process(data, tmp_path):
    result, _ = compare(data, tmp_path / "runs", ["lora", "full"], num_seeds=1, isolated=True)
    assert result.rows[0].peak_bytes > 100_000_000
    assert result.rows[0].figures["map"].of_seeds is None
    short = [*OVERRIDES, "collator.max_length=16"]
    with pytest.raises(BoxtuneError, match=r"lora.seed-0.*collator\.max_length=16"):
        compare(data, tmp_path / "more", ["lora", "full"], num_seeds=1, isolated=True, overrides=short)


BAD = [
    ({"names": ["r1"]}, "name two or more"),
    ({"names": ["r1", "r1-llm-only"]}, "name two or more, each once"),
    ({"names": ["r1", "r9"]}, "Unknown recipe 'r9'"),
    ({"names": ["r1", "r"]}, "Unknown recipe 'r'"),
    ({"num_images": 0}, "0 images and 2 seeds"),
    ({"num_seeds": 0}, "5 images and 0 seeds"),
    ({"overrides": ["trainer.max_steps=3"]}, "trainer.max_steps is the comparison's own"),
    ({"overrides": ["trainer.minutes=1"]}, "trainer.minutes is the comparison's own"),
    ({"overrides": ["collator.token_budget=99"]}, "collator.token_budget is the comparison's own"),
    ({"overrides": ["trainer.seeed=1"]}, "seed"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_bad_requests(data, tmp_path, change, said):
    with pytest.raises(BoxtuneError, match=said):
        compare(data, tmp_path / "runs", **change)


def test_changed_data_is_found_out(data, tmp_path):
    compare(data, tmp_path / "runs", ["lora", "full"], num_seeds=1)
    truth = tmp_path / "runs" / "full" / "seed-0" / "run" / "ground_truth.json"
    truth.write_text(truth.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1))
    with pytest.raises(ConfigError, match=r"seed 0 .* judged on different images or boxes"):
        compare(data, tmp_path / "runs", ["lora", "full"], num_seeds=1)


def test_another_comparison_in_the_folder_is_refused(compared, data, tmp_path):
    folder, _, _ = compared
    with pytest.raises(ConfigError, match=r"num_images is 16, but the comparison in .* was begun with 8"):
        compare(data, folder, num_images=16)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds something else than a comparison"):
        compare(data, tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        compare(data, tmp_path)


def test_spread_over_seeds_is_wider_than_over_images():
    images = np.random.default_rng(0).normal(0, 0.01, 1000)
    one = spread([0.5], [Redrawn(0.5 + images, (9,))])
    two = spread([0.4, 0.6], [Redrawn(mean + images, (9,)) for mean in (0.4, 0.6)])
    assert (one.mean, one.of_seeds) == (0.5, None)
    assert (two.mean, two.of_seeds) == (0.5, pytest.approx(0.2 / np.sqrt(2)))
    assert two.interval.high - two.interval.low > 3 * (one.interval.high - one.interval.low)
    assert spread([None, 0.5], [Redrawn(images, (9,))] * 2).mean is None


def test_trained_weights_are_those_on_the_disk(compared):
    """The record says what was opened before the first step; the files say what was saved."""
    folder, _, _ = compared
    stages = folder / "r3-two-stage" / "seed-0" / "run"
    first, second = stages / "stage-1-vision", stages / "stage-2-language"
    for adapter in (second, folder / "lora" / "seed-0" / "run"):
        assert num_trained(adapter) == num_elements(load_file(adapter / "adapter_model.safetensors").values())
    rows = summarize(load_model(str(first)).model, family("qwen2_vl"))
    in_full = {row.area: row.num_parameters for row in rows if row.area in ("vision", "merger")}
    assert json.loads((first / "run.json").read_text())["trained"] == in_full
    assert json.loads((second / "run.json").read_text())["trained"].keys() == {"language"}


def num_elements(tensors) -> int:
    return sum(tensor.numel() for tensor in tensors)


def test_the_page(compared):
    folder, result, _ = compared
    page = (folder / "comparison.html").read_text()
    assert "8 images seen by each recipe, 2 seeds, judged on" in page
    assert "The baseline is lora." in page
    for row in result.rows:
        assert f"<td>{row.trained_text}</td>" in page
        assert f"<td>{row.memory_text}</td>" in page
    assert page.count("<circle") == 4  # AP over minutes: two recipes, two seeds
    assert "AP along the images seen" not in page
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page)


def test_looks_in_the_course_of_training_are_drawn_along_the_images(data, tmp_path):
    """r3 sees half of its images in each stage: looks at half and at the end of both."""
    settings = [*OVERRIDES, "evaluation.every=0.5", "evaluation.watch_images=2"]
    result, _ = compare(data, tmp_path / "runs", num_seeds=1, num_images=8, overrides=settings)
    assert [[images for images, _ in row.looks[0]] for row in result.rows] == [[4, 8], [2, 4, 6, 8]]
    page = (tmp_path / "runs" / "comparison.html").read_text()
    assert "AP along the images seen" in page
    assert page.count("<circle") == 2 + 2 + 4


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": "run", "num_trained": 3}'])
def test_a_result_that_is_not_whole_is_none(tmp_path, content):
    (tmp_path / comparison_run.RESULT_FILE).write_text(content)
    assert read_result(tmp_path) is None
    assert read_result(tmp_path / "nowhere") is None
    assert RunResult("run", (1,), 2, 0.1, 5, "rss").num_trained == (1,)
