# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5 · The whole way
#
# From pictures to a detector that can be handed on, in one sitting: look at the data, judge the model as it comes,
# plan, train, judge again, write the report, merge, detect. The four notebooks before took each step apart; here they
# are done once, in order, as you would do them with data of your own.
#
# The task: nutrition tables on photos that came through a fax machine, black or white and nothing between. The
# embedded model has never seen such pictures.
#
# *Before: [4 · What a figure says](04_evaluation_analysis.ipynb).*

# %%
import logging
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

# Other libraries talk about each other here. Leave these two lines out when something goes wrong.
warnings.filterwarnings("ignore")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from IPython.display import display
from PIL import Image
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

import boxtune
from boxtune.evaluation.assignment import count_image
from boxtune.evaluation.evaluate import write_evaluation
from boxtune.evaluation.page.differences import verdict
from boxtune.evaluation.report import write_report
from boxtune.evaluation.summary import FIGURE_NAMES, figure_with_interval
from boxtune.inference.draw import draw_detections, sheet
from boxtune.inspection.dataset import print_summary, summarize_dataset
from boxtune.inspection.dataset_explore import explore
from boxtune.inspection.model_tables import print_plan
from boxtune.inspection.skeleton import load_skeleton
from boxtune.inspection.trainables import plan_training
from boxtune.models.areas import LowRank
from boxtune.models.contract import set_pixel_limits
from boxtune.models.merge import merge_adapter

disable_progress_bar()
console = Console()

WORK = Path("runs/05")
shutil.rmtree(WORK, ignore_errors=True)
MODEL = "embedded"
SIDE = 308  # the model sees about 308 × 308 px: small, so that the training takes a minute

# %% [markdown]
# ## 1 · The data
#
# A COCO folder. With data of your own this step is a path.

# %%
specs = {"train": "synthetic:nutrition?n=256&seed=5&size=320", "val": "synthetic:nutrition?n=48&seed=5&size=320"}
boxtune.convert_dataset(
    {split: boxtune.load_dataset(spec, split) for split, spec in specs.items()}, "coco", WORK / "fax"
)
for path in (WORK / "fax").rglob("*.png"):
    Image.open(path).convert("1").convert("L").save(path)  # the fax machine: one bit a pixel

dataset = boxtune.load_dataset(WORK / "fax")
val = boxtune.load_dataset(WORK / "fax", split="val")
display(sheet([draw_detections(val[i].image, None, val[i].detections) for i in range(8)], columns=4, cell_px=240))

# %% [markdown]
# Look at it in figures too ([notebook 1](01_dataset_exploration.ipynb)): are the splits alike, is anything doubtful,
# does a picture come twice?

# %%
found = explore(dataset)
print_summary(summarize_dataset(dataset), "fax", console, found.figures.splits)
print("doubtful:", [f"{doubt.count} {doubt.kind}" for doubt in found.doubts] or "nothing")
print("copies across splits:", found.copies.num_across)

# %% [markdown]
# ## 2 · The model as it comes
#
# Judge before you train. It costs a minute, it is the only way to know what training gained, and now and then it
# shows that no training is needed.

# %%
detector = boxtune.load_detector(MODEL, labels=val.labels, max_new_tokens=192)
set_pixel_limits(detector.loaded.processor, SIDE * SIDE, SIDE * SIDE)
before = boxtune.evaluate(detector, val, details=True)
for figure, name in FIGURE_NAMES.items():
    print(f"{name:<20} {figure_with_interval(before.metrics, figure)}")

# %% [markdown]
# Read it from below. Can the answers be parsed? Do boxes that are found fit (mean IoU)? And how many tables are found
# at all? A model that writes flawless answers, with boxes that fit, and misses half of the tables, has learned the
# language and is not used to such pictures.
#
# ## 3 · The plan
#
# A *recipe* is a name for what is trained, area by area:

# %%
for recipe in boxtune.RECIPES.values():
    print(f"{recipe.name:<15} {recipe.title}\n{'':15} good for: {recipe.when}")

# %% [markdown]
# Strange pictures speak for training the vision tower along with the language model, in one run: what `r4-joint`
# does. Its 4 bits only save memory, of which a small model needs none, so we say the same three areas ourselves. What
# would that train? The plan is made from `config.json`, without weights.

# %%
HOW = {"language": "lora", "vision": "lora", "merger": "lora"}
print_plan(plan_training(load_skeleton(MODEL).model, HOW, LowRank(rank=16, alpha=32)), "LoRA everywhere", console)

# %% [markdown]
# The rest of the settings are `auto` where nothing is said: fitted to model, data and machine. A typing error is
# refused, with the nearest valid name:

# %%
settings = [
    f"data.path={WORK}/fax",
    f"model.name={MODEL}",
    f"model.min_pixels={SIDE * SIDE}",
    f"model.max_pixels={SIDE * SIDE}",
    *(f"adapter.{area}={how}" for area, how in HOW.items()),
    *("trainer.max_steps=36", "trainer.per_device_train_batch_size=8", "data.augment=none", "data.num_workers=0"),
    *("evaluation.every=none", "evaluation.at_end=false", "logging.steps=1"),
]
try:
    boxtune.load_config(None, [*settings, "adapter.visoin=lora"])
except boxtune.BoxtuneError as refused:
    print(refused)
config = boxtune.load_config(None, [*settings, f"output_dir={WORK}/adapter"])

# %% [markdown]
# ## 4 · Training
#
# Before the first step boxtune prints what it is about to do: read the table, it is the last look at what is trained.
# In the first step every trained weight must receive a gradient, or the run ends.

# %%
trained = boxtune.train(config, console=console)

# %%
steps, losses = zip(*trained.losses, strict=True)
fig, axis = plt.subplots(figsize=(7, 2.6), layout="constrained")
axis.plot(steps, losses, color="#bbbbbb", label="each step")
axis.plot(steps[2:-2], np.convolve(losses, np.ones(5) / 5, "valid"), color="#0072b2", label="mean of five")
axis.set(xlabel="step", ylabel="loss of the answers", title=f"{trained.num_steps} steps in {trained.seconds:.0f} s")
axis.legend()
plt.show()

# %% [markdown]
# A short, noisy curve: each step sees eight other photos. Whether boxes got better it does not say.
#
# ## 5 · Judge again
#
# The same photos, the same code; the pixel limits of the training were saved with the adapter.

# %%
after_detector = boxtune.load_detector(str(WORK / "adapter"), max_new_tokens=192)
after = boxtune.evaluate(after_detector, val, details=True)
print(f"{'':<20} {'before':<22} after")
for figure, name in FIGURE_NAMES.items():
    print(
        f"{name:<20} {figure_with_interval(before.metrics, figure):<22} {figure_with_interval(after.metrics, figure)}"
    )

# %% [markdown]
# Two intervals side by side waste what is known: both models were judged on the *same* photos. The paired comparison
# ([notebook 4](04_evaluation_analysis.ipynb)) says what that shows:

# %%
comparison = boxtune.compare_models({"before": before, "after": after})
print(verdict("after", "before", comparison.models[1].against_baseline, f"{len(val)} photos", "other photos"))

# %% [markdown]
# Should mean IoU have fallen while more is found, do not be alarmed: it is the mean over what was found, and tables
# that were missed before are the hard ones. And the sentence does not say what another seed would have given, nor how
# the model does on real faxes.
#
# Now look. Fair pictures show both ends: on the left the two photos that gained most, on the right the two that
# gained least or lost. The upper row is before, the lower one after; solid lines are found, dashed ones true.


# %%
def right_boxes(image):
    """How many true boxes of a picture were found at IoU 0.5."""
    return sum(iou >= 0.5 for iou in count_image(image.truth, image.prediction.result.detections).iou)


def row_of_pictures(evaluation, places):
    """Pictures with found and true boxes."""
    found = [evaluation.images[place].prediction.result.detections for place in places]
    return [
        draw_detections(val[place].image, boxes, val.detections(place))
        for place, boxes in zip(places, found, strict=True)
    ]


gains = [right_boxes(b) - right_boxes(a) for a, b in zip(before.images, after.images, strict=True)]
by_gain = sorted(range(len(val)), key=lambda place: -gains[place])
shown = [*by_gain[:2], *by_gain[-2:]]
captions = [f"gained {gains[place]:+d}" for place in shown]
pictures = [*row_of_pictures(before, shown), *row_of_pictures(after, shown)]
display(sheet(pictures, columns=4, cell_px=260, captions=captions * 2))

# %% [markdown]
# ## 6 · The report
#
# One page for those who were not here: figures with their intervals, kinds of mistakes, curves, and a gallery in
# which every picture shows both models.

# %%
for name, one in (("before", before), ("after", after)):
    write_evaluation(WORK / name, one)
models = [("before", before), ("after", after)]
write_report(WORK / "report.html", title="Tables on faxes", models=models, samples=val, losses=trained.losses)
print("Open", (WORK / "report.html").resolve())

# %% [markdown]
# ## 7 · Merging
#
# What was trained is an adapter: a small file beside a large model. To hand it on, fold it in. The sum is made in
# fp32, its logits are compared with the adapter's, and what was written is read back and compared again, bit for bit.

# %%
difference = merge_adapter(WORK / "adapter", WORK / "merged")
print(f"largest difference of logits: {difference:.1e} of the largest")
for path in sorted(WORK.glob("*/*model.safetensors")):
    print(f"{path.parent.name}/{path.name}: {path.stat().st_size / 2**20:.1f} MiB")

# %% [markdown]
# The merged folder is an ordinary checkpoint, for `transformers` and whatever is built on it, with `boxtune.json`
# beside the weights: how the model wants to be asked.
#
# ## 8 · Detecting
#
# Three lines. The merged model must find what the adapter found.

# %%
final = boxtune.load_detector(str(WORK / "merged"))
[result] = final.detect([val[0].image])
print(result.status, result.detections)
[by_adapter] = after_detector.detect([val[0].image])
same = np.allclose(result.detections.xyxy, by_adapter.detections.xyxy)
print("the boxes that the adapter found:", same)

# %% [markdown]
# ## 9 · The same from the command line
#
# Every step above is a command, and nothing more than that: the settings are those of `load_config`. Two training
# steps are enough to show it.


# %%
def command(line):
    """Run a line as in a terminal and show what it says; an error ends the notebook."""
    print("$", line)
    plain = {**os.environ, "FORCE_COLOR": ""}  # Jupyter asks for colours and moving bars, which a cell cannot show
    done = subprocess.run([sys.executable, "-m", *shlex.split(line)], capture_output=True, text=True, env=plain)
    print(done.stdout + done.stderr)
    done.check_returncode()


limits = f"model.min_pixels={SIDE * SIDE} model.max_pixels={SIDE * SIDE}"
areas = " ".join(f"adapter.{area}={how}" for area, how in HOW.items())
short = "trainer.max_steps=2 evaluation.every=none evaluation.at_end=false"
command(f"boxtune train --data {WORK}/fax --output-dir {WORK}/cli {areas} {limits} {short}")

# %%
command(f"boxtune merge --adapter {WORK}/cli --output-dir {WORK}/cli-merged")

# %%
(WORK / "new").mkdir()
for record in val.records[:2]:
    record.open_image().save(WORK / f"new/{record.id.replace('/', '-')}.png")
command(f"boxtune predict --model {WORK}/merged --image {WORK}/new --output-dir {WORK}/found")
display(sheet([Image.open(path) for path in sorted((WORK / "found").glob("*.jpg"))], columns=2))

# %% [markdown]
# And `boxtune quickstart` does the whole of it on photos of its own.
#
# ## With a 7B model on a GPU
#
#     boxtune inspect data --data FOLDER --model Qwen/Qwen2.5-VL-7B-Instruct
#     boxtune inspect model Qwen/Qwen2.5-VL-7B-Instruct --recipe r4-joint
#     boxtune evaluate --model Qwen/Qwen2.5-VL-7B-Instruct --data FOLDER --output-dir runs/before
#     boxtune train --config configs/qwen2_5_vl_7b.yaml --data FOLDER --output-dir runs/mine
#     boxtune merge --adapter runs/mine --output-dir runs/mine-merged --dtype bfloat16
#     boxtune compare --models Qwen/Qwen2.5-VL-7B-Instruct,runs/mine --data FOLDER --output-dir runs/compared
#     boxtune predict --model runs/mine-merged --image NEW --output-dir found
#
# In this notebook: `MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"`, `SIDE = 1000`, a few hundred steps, batch size 2 with
# `trainer.gradient_accumulation_steps=4`; `recipe=r1-llm-only` instead of the three areas where memory is short.
#
# **Try it:** train on the language model alone (`HOW = {"language": "lora", "vision": "frozen", "merger":
# "frozen"}`). How much of the gain was the eyes?
#
# *From the start: [1 · What is in a data set](01_dataset_exploration.ipynb).*
