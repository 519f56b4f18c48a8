"""Every page in a real browser at a phone's width: no script error, no scrolling sideways, filters that filter."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from boxtune.data.dataset import load_dataset
from boxtune.evaluation.compare import compare_models
from boxtune.evaluation.compare_page import write_models_page
from boxtune.evaluation.evaluate import Evaluation
from boxtune.evaluation.intervals import Difference, Interval
from boxtune.evaluation.report import write_report
from boxtune.inspection.dataset import chosen_samples
from boxtune.inspection.dataset_explore import explore
from boxtune.inspection.dataset_page import write_dataset_page
from boxtune.training.comparison_page import write_recipes_page
from boxtune.training.comparison_results import RecipeComparison, RecipeRow, Spread
from evaluation.hostile import HOSTILE, TRUTH, WRONG, evaluation, sample
from training.runs import write_coco

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTH = 360

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs chromium")]

# Another page drives them in frames of a phone's width: their own policy lets no other script into them.
DRIVER = """<!doctype html>FRAMES<pre></pre>
<script>
const drive = (page) => {
  const items = [...page.querySelectorAll("[data-item]")];
  const shown = () => items.filter((item) => item.offsetHeight > 0).length;
  const count = () => page.getElementById("count")?.textContent;
  const found = {width: page.documentElement.scrollWidth, height: page.documentElement.scrollHeight,
    all: shown(), items: items.length, filters: []};
  for (const select of page.querySelectorAll("select[data-filter]")) {
    for (const option of [...select.options].filter((option) => option.value !== "")) {
      const fitting = items.filter((item) => item.dataset[select.dataset.filter].split(" ").includes(option.value));
      select.value = option.value;
      select.dispatchEvent(new Event("change"));
      found.filters.push([select.dataset.filter, option.value, fitting.length, shown(), count()]);
    }
    select.value = "";
    select.dispatchEvent(new Event("change"));
  }
  const select = page.querySelector("select[data-filter]");
  const reset = page.getElementById("reset");
  if (reset) { select.value = select.options[1].value; select.dispatchEvent(new Event("change")); reset.click(); }
  found.reset = shown();
  return found;
};
addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")];
  const found = Object.fromEntries(frames.map((frame) => [frame.id, drive(frame.contentDocument)]));
  document.querySelector("pre").textContent = JSON.stringify(found);
});
</script>"""


def driven(folder: Path, names: list[str]) -> tuple[dict[str, Any], str]:
    """Name of each page → what was found in it; and what the browser complained about."""
    style = f"width:{WIDTH}px;height:800px;border:0"
    frames = "".join(f'<iframe id="{name}" src="{name}.html" style="{style}"></iframe>' for name in names)
    (folder / "drive.html").write_text(DRIVER.replace("FRAMES", frames), encoding="utf-8")
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    logging = ["--enable-logging=stderr", "--virtual-time-budget=5000", f"--user-data-dir={folder / 'profile'}"]
    command = [BROWSER, *arguments, *logging, (folder / "drive.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    text = re.search(r"<pre>(.*?)</pre>", done.stdout, re.S)[1]
    return json.loads(text), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def write_evaluations(folder: Path) -> None:
    samples = [sample("good"), sample("bad"), sample("worse")]
    right, wrong = evaluation(samples[:1], TRUTH.with_scores([0.9, 0.8])), evaluation(samples[1:], WRONG)
    mixed = Evaluation(wrong.metrics, right.images + wrong.images, right.labels)
    write_report(folder / "report.html", title=HOSTILE, models=[("model", mixed)], samples=samples)
    models = {HOSTILE: evaluation(samples, TRUTH.with_scores([0.9, 0.8])), "x" * 120: mixed}
    compared = compare_models(models, num_resamples=20)
    write_models_page(folder / "comparison.html", compared, models, samples, HOSTILE)


def write_data_set(folder: Path) -> None:
    dataset = load_dataset(str(write_coco(folder / "data", 5, labels=("box", HOSTILE))))
    exploration = explore(dataset, None, max_compared=5)
    write_dataset_page(folder / "dataset.html", exploration, dataset, chosen_samples(dataset, num_images=5))


def write_recipes(folder: Path) -> None:
    metrics = evaluation([sample("a"), sample("b")], WRONG).metrics
    figure, difference = Spread(0.3, Interval(0.2, 0.4), 0.01), Difference(0.1, Interval(-0.1, 0.3), 0.8)
    curve = tuple(1 - n / 100 for n in range(101))
    rows = tuple(
        RecipeRow(
            recipe=name,
            figures=dict.fromkeys(("map", "map50", "mean_iou"), figure),
            against_baseline=dict.fromkeys(("map", "map50"), difference) if number else {},
            metrics=(metrics, metrics),
            num_trained=(8_291_375_616, 327_680),
            minutes=3.0,
            minutes_of_seeds=(2.0, 4.0),
            peak_bytes=2**34,
            memory="cuda",
            looks=(((200, 0.1), (400, 0.2)),) * 2,
            curves={"0.50": curve, "0.75": curve, "0.50:0.95": curve},
        )
        for number, name in enumerate(("lora", HOSTILE))
    )
    write_recipes_page(folder / "recipes.html", RecipeComparison(rows, "embedded", HOSTILE, 400, 2, 30))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_evaluations(folder)
    write_data_set(folder)
    write_recipes(folder)
    return driven(folder, ["report", "comparison", "dataset", "recipes"])


def test_no_script_fails_and_no_policy_is_broken(found):
    assert found[1] == ""


@pytest.mark.parametrize("page", ["report", "comparison", "dataset", "recipes"])
def test_nothing_is_scrolled_sideways_on_a_phone(found, page):
    assert found[0][page]["height"] > 800
    assert found[0][page]["width"] <= WIDTH


@pytest.mark.parametrize(("page", "num_items"), [("report", 3), ("comparison", 2), ("dataset", 5), ("recipes", 0)])
def test_filters(found, page, num_items):
    seen = found[0][page]
    assert (seen["all"], seen["items"], seen["reset"]) == (num_items,) * 3
    for attribute, value, fitting, shown, said in seen["filters"]:
        assert (shown, said) == (fitting, f"{fitting} of {num_items} pictures"), (attribute, value)
    by_kind = {(attribute, value): shown for attribute, value, _, shown, _ in seen["filters"]}
    if page == "report":
        assert (by_kind["kinds", "none"], by_kind["kinds", "missed"], by_kind["rank", "best"]) == (1, 2, 1)
    if page == "dataset":
        assert by_kind["labels", "0"] > 0 < by_kind["labels", "1"]


def test_a_broken_page_would_be_seen(tmp_path):
    """What the tests above rely on: a forbidden script and a table that is too wide do not pass unseen."""
    page = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'">
    <table width="500"><tr><td>wide</table><script>1</script>"""
    (tmp_path / "bad.html").write_text(page)
    seen, said = driven(tmp_path, ["bad"])
    assert seen["bad"]["width"] > WIDTH
    assert "Content Security Policy" in said
