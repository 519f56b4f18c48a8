# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1 · What is in a data set
#
# A detector learns what its data set shows, and nothing else. A box in the wrong place, a name spelled in two ways, a
# photo that is in both halves: none of them stops a training, and each spoils it. So the first hour belongs to the
# data.
#
# You will make two data sets, read their files, meet the two values that everything in boxtune travels in (`Sample`
# and `Detections`), look at sizes and places, and then spoil a data set on purpose to see what is noticed and what is
# not.
#
# *This is the first of five notebooks. Next: [2 · Understanding the model](02_model_understanding.ipynb).*

# %%
import io
import json
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

import boxtune
from boxtune.collators.encode import SampleEncoder
from boxtune.data.conversation import ConversationStyle
from boxtune.detections import xyxy_to_cxcywh, xyxy_to_xywh
from boxtune.inference.draw import draw_detections, sheet
from boxtune.inspection.dataset_anchors import suggest_anchors
from boxtune.inspection.dataset_boxes import read_annotations, table_of
from boxtune.inspection.dataset_copies import find_copies
from boxtune.inspection.dataset_doubts import find_doubts
from boxtune.inspection.dataset_figures import box_figures
from boxtune.inspection.dataset_lengths import token_lengths
from boxtune.models.places import load_config, load_processor

WORK = Path("runs/01")  # everything is written here
shutil.rmtree(WORK, ignore_errors=True)  # and every start is a fresh one


# %% [markdown]
# ## Two data sets
#
# boxtune paints pictures of its own: `synthetic:nutrition` are photos of food packages with their nutrition tables,
# `synthetic:scenes` a mixture of everything. Painted pictures have a great virtue for learning: their boxes are
# exactly right, so whatever looks wrong later is our own doing.
#
# `convert_dataset` writes a data set as a folder in a common format. Here it is COCO; `yolo`, `voc` and `jsonl` are
# as near.

# %%
made = boxtune.convert_dataset("synthetic:nutrition?n=60&seed=1", "coco", WORK / "nutrition")
print("images:", made.num_images)
print("boxes: ", made.num_boxes)


# %% [markdown]
# The same from the command line. The small function types a line for us, as you would into a terminal, so that both
# ways stand side by side in these notebooks.


# %%
def command(line):
    """Run a line as in a terminal and show what it says; an error ends the notebook."""
    print("$", line)
    plain = {**os.environ, "FORCE_COLOR": ""}  # Jupyter asks for colours and moving bars, which a cell cannot show
    done = subprocess.run([sys.executable, "-m", *shlex.split(line)], capture_output=True, text=True, env=plain)
    print(done.stdout + done.stderr)
    done.check_returncode()


command(f"boxtune convert --data 'synthetic:scenes?n=60&seed=1' --to coco --output-dir {WORK}/scenes")

# %% [markdown]
# ## What a COCO folder holds
#
# One JSON file a split, and the pictures. The file has three tables: `images` with their sizes, `categories` with the
# names, and `annotations`, a row a box, which points to the other two by number. Read the first row of each: which of
# the numbers in `bbox` is the width?

# %%
coco = json.loads((WORK / "nutrition/train.json").read_text())
for name in ("images", "categories", "annotations"):
    print(f"{name}: {len(coco[name])} rows, the first is\n  {coco[name][0]}\n")

# %% [markdown]
# COCO writes `[x_min, y_min, width, height]` in pixels: the third number. Nothing in the file says so. Every format
# has such silent agreements, and most mistakes with boxes begin there.
#
# ## Sample and Detections
#
# `load_dataset` opens any format, and from here on formats do not matter any more. Opening decodes no picture; a
# picture is decoded when its sample is asked for.

# %%
train = boxtune.load_dataset(WORK / "nutrition", split="train")
sample = train[2]
print(f"{len(train)} samples, labels {train.labels}")
print(f"id {sample.id!r} from {sample.source}")
print(f"image {sample.image.mode} of {sample.image_hw[1]} × {sample.image_hw[0]} px, always upright, always RGB")
print(sample.detections)

# %% [markdown]
# `Detections` is the one value that boxes travel in, from the file to the last figure: corners
# `(x_min, y_min, x_max, y_max)` in pixels of the upright picture, a label a box, and scores where a model found them.
# `draw_detections` shows them.

# %%
display(draw_detections(sample.image, sample.detections))

# %% [markdown]
# A `Detections` is checked when it is made and cannot be changed afterwards. So a box that is upside down cannot get
# past this door: whoever makes it is told at once.

# %%
try:
    boxtune.Detections([[200, 20, 10, 150]], ["nutrition-table"])
except ValueError as refused:
    print(refused)

# %% [markdown]
# ## Five ways to write one box
#
# The table writes one box in the forms that data sets use. Look at the last one: Open Food Facts puts y before x, and
# both between 0 and 1.


# %%
def misleads(record):
    """Whether the first box, written as COCO does, could be taken for corners."""
    first = record.detections.xyxy[:1]
    return len(first) == 1 and (xyxy_to_xywh(first)[0, 2:] > first[0, :2]).all()


record = next(record for record in train.records if misleads(record))
box, (height, width) = record.detections.xyxy[:1], record.image_hw
sides = np.array([width, height, width, height])
forms = {
    "boxtune, VOC: x_min y_min x_max y_max, px": box,
    "COCO: x_min y_min width height, px": xyxy_to_xywh(box),
    "DETR: x_centre y_centre width height, px": xyxy_to_cxcywh(box),
    "YOLO: the same as shares of the sides": xyxy_to_cxcywh(box) / sides,
    "Open Food Facts: y_min x_min y_max x_max, shares": (box / sides)[:, [1, 0, 3, 2]],
}
for name, numbers in forms.items():
    print(f"{name:<50}", "  ".join(f"{number:7.6g}" for number in numbers[0].round(3)))

# %% [markdown]
# What happens when a reader takes one form for another? Each of the following reads the four numbers of the wrong
# form as if they were corners. All of them give valid boxes, so no check can complain: only the eye sees it. Solid
# lines are what was read, the dashed one is the truth.

# %%
wrong = {
    "COCO's numbers": forms["COCO: x_min y_min width height, px"],
    "y before x": box[:, [1, 0, 3, 2]],
}
pictures = []
for numbers in wrong.values():
    misread = boxtune.Detections(numbers, ["read as corners"]).clipped(record.image_hw)
    pictures.append(draw_detections(record.open_image(), misread, record.detections))
display(sheet(pictures, columns=2, captions=list(wrong)))

# %% [markdown]
# This is why you look at samples with their boxes before anything else. A model trained on either of these would
# learn the wrong boxes very well.
#
# ## Counts
#
# `table_of` gathers all boxes of a data set into a few arrays, and `box_figures` counts them. Opened without a split,
# the data set holds all of its splits.

# %%
datasets = {name: boxtune.load_dataset(WORK / name) for name in ("nutrition", "scenes")}
tables = {name: table_of(dataset) for name, dataset in datasets.items()}
figures = {name: box_figures(table) for name, table in tables.items()}
for name, found in figures.items():
    for split in found.splits:
        print(f"{name:<10} {split.name:<6} {split.num_images} images, {split.num_empty} empty, {split.num_boxes} boxes")

# %% [markdown]
# Images without a box belong into a data set: they teach that the right answer may be "nothing here". And the splits
# should look alike, or else the figures on `val` speak of another kind of picture than the one you trained on.
#
# Now the shapes. Each column of the picture is one question: how large are the pictures, how many boxes has each, how
# large is a box (the square root of its share of the picture, so 0.5 is half a side), and is it wide or tall?


# %%
def bars(axis, histogram, title):
    """One histogram of boxtune as bars."""
    edges = np.array(histogram.edges)
    axis.bar(edges[:-1], histogram.counts, np.diff(edges), align="edge", color="#0072b2", edgecolor="white", lw=0.3)
    axis.set_title(title, fontsize=9)
    if histogram.log:
        axis.set_xscale("log")
        axis.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
        axis.minorticks_off()


fig, rows = plt.subplots(2, 4, figsize=(12, 4.6), layout="constrained")
for row, (name, found) in zip(rows, figures.items(), strict=True):
    bars(row[0], found.image_sides_px, f"{name}: longer side, px")
    bars(row[1], found.boxes_per_image, "boxes in a picture")
    bars(row[2], found.box_sides, "size of a box (root of its share)")
    bars(row[3], found.box_ratios, "width / height of a box")
plt.show()

# %% [markdown]
# Nutrition photos hold one or two tables of generous size. Scenes hold anything from nothing to dozens of objects,
# most of them small: a much harder data set, and longer answers for a model that writes its boxes down as text.
#
# ## Where the boxes are
#
# Photographers put their subject into the middle. A model notices, and will look there first. Bright cells hold the
# centres of many boxes.

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for axis, (name, found) in zip(axes, figures.items(), strict=True):
    axis.imshow(found.centres, extent=(0, 1, 1, 0), cmap="magma")
    axis.set(title=f"{name}: centres of boxes", xlabel="x, share of the width", ylabel="y, share of the height")
plt.show()

# %% [markdown]
# ## Small, medium, large
#
# COCO calls a box small below 32 × 32 px, large from 96 × 96 px, and reports AP for each. But what decides is how
# large a box is *as the model sees it*: the picture is resized first. A picture of 4000 px made into one of 700 px
# takes five sixths of every side.

# %%
for name, found in figures.items():
    total = sum(found.size_classes.values())
    print(f"{name:<10}", ", ".join(f"{kind} {count / total:.0%}" for kind, count in found.size_classes.items()))

# %% [markdown]
# ## Labels
#
# The nutrition photos have one label. The scenes show what a grown data set looks like: a few common names and a long
# tail of rare ones.

# %%
per_label = {split.name: split.boxes_per_label for split in figures["scenes"].splits}
counts = sorted(
    ((sum(of[label] for of in per_label.values()), label) for label in datasets["scenes"].labels), reverse=True
)
fig, axis = plt.subplots(figsize=(12, 3), layout="constrained")
axis.bar([label for _, label in counts[:45]], [count for count, _ in counts[:45]], color="#009e73")
axis.tick_params(axis="x", rotation=90, labelsize=8)
axis.set(title=f"the 45 commonest of {len(counts)} labels", ylabel="boxes")
plt.show()

# %% [markdown]
# A label that occurs once teaches nothing, and one that `val` asks for but `train` never shows cannot be learned.
# Both are easily counted:

# %%
once = [label for count, label in counts if count == 1]
never = [label for label, count in per_label["val"].items() if count and not per_label["train"][label]]
print(f"{len(once)} of {len(counts)} labels occur a single time, such as {', '.join(once[:4])}")
print(f"{len(never)} labels are in val but never in train, such as {', '.join(never[:4])}")

# %% [markdown]
# With labels like these, AP (an average over labels) would mostly be an average over chance. Merge labels, or leave
# rare ones out, before you train.
#
# ## Typical shapes
#
# Classic detectors place anchor boxes of typical shapes. Qwen-VL writes its boxes as text and needs none, but the
# shapes still say how alike the boxes of a data set are: the nearer the mean IoU with the best of six shapes comes to
# 1, the more uniform they are.

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for axis, (name, table) in zip(axes, tables.items(), strict=True):
    shapes = next(one for one in suggest_anchors(table) if len(one.sizes) == 6)
    for w, h in shapes.sizes:
        axis.add_patch(plt.Rectangle((0.5 - w / 2, 0.5 - h / 2), w, h, fill=False, ec="#d55e00", lw=2))
    axis.set(title=f"{name}: six shapes, mean IoU {shapes.mean_iou:.2f}", aspect="equal")
    axis.set(xlabel="share of the width", ylabel="share of the height")
plt.show()

# %% [markdown]
# ## How long the answers get
#
# A language model reads and writes tokens. An image costs one token for every 28 × 28 px, a box about twenty, and a
# conversation that is too long is refused in training (never cut: an image cut in two is no image). `token_lengths`
# counts from sizes alone, with the processor of the model that you mean to train.

# %%
MODEL = "embedded"  # or a hub id: only its processor is fetched
codec = boxtune.family(load_config(MODEL)).codec
for name, dataset in datasets.items():
    encoder = SampleEncoder(load_processor(MODEL), ConversationStyle(codec, dataset.labels))
    lengths = token_lengths(dataset, encoder)
    image, whole = lengths.median_image_tokens, lengths.median
    print(f"{name:<10} image {image:.0f} tokens, conversation {whole:.0f} in the middle, {lengths.longest} at most")

# %% [markdown]
# The scenes are long for two reasons: dozens of boxes in the answer, and the question that lists every label of the
# data set.
#
# ## Spoiling a data set
#
# Real annotations are made by people on Friday afternoons. Let us play them: a copy of the nutrition folder gets five
# faults that all occur in real data sets.


# %%
def spoil(coco):
    """Five faults in five boxes of a COCO file."""
    coco["categories"].append({"id": 2, "name": "Nutrition Table"})
    one_an_image = {row["image_id"]: row for row in coco["annotations"]}
    spelled, doubled, tiny, huge, outside = list(one_an_image.values())[:5]
    spelled["category_id"] = 2  # the same thing under another name
    coco["annotations"].append({**doubled, "id": 9001})  # an object that is marked twice
    tiny["bbox"] = [5, 5, 3, 3]  # a slip of the mouse
    image = next(image for image in coco["images"] if image["id"] == huge["image_id"])
    huge["bbox"] = [0, 0, image["width"], image["height"]]  # the picture, not the table
    outside["bbox"][0] = -150  # made for another version of the picture
    return coco


shutil.copytree(WORK / "nutrition", WORK / "spoiled")
_ = (WORK / "spoiled/train.json").write_text(json.dumps(spoil(coco)))

# %% [markdown]
# The fifth fault is a contradiction: a box outside of its picture. Nobody can know what was meant, so opening
# refuses, and says where and what.

# %%
try:
    boxtune.load_dataset(WORK / "spoiled", split="train")
except boxtune.BoxtuneError as refused:
    print(refused)

# %% [markdown]
# `on_error="skip"` goes on without that picture and writes down what was left out. The other four faults are
# *possible* labels, which only somebody who knows the data can judge. `find_doubts` lists them; `read_annotations`
# gives it the boxes as they stand in the file, before any check.

# %%
written, _ = read_annotations(str(WORK / "spoiled"))
for doubt in find_doubts(written):
    print(f"{doubt.kind:<9} {doubt.count}  {doubt.meaning}; as in {', '.join(doubt.examples[:2])}")

# %% [markdown]
# All five are named. Doubtful is not wrong: a table may well fill its picture. So look at the examples before you
# mend anything.
#
# ## Copies
#
# The most expensive fault makes the figures *better*: a picture that is in `train` and in `val`. The model knows it
# by heart, and you believe that it sees. We put one there ourselves, squeezed into another shape and compressed hard,
# as pictures come back from the web.

# %%
original = sorted((WORK / "spoiled/images/train").iterdir())[7]
target = sorted((WORK / "spoiled/images/val").iterdir())[3]
with Image.open(original) as picture, Image.open(target) as old:
    jpeg = io.BytesIO()
    picture.resize(old.size).convert("RGB").save(jpeg, "JPEG", quality=40)
Image.open(jpeg).save(target)

spoiled = boxtune.load_dataset(WORK / "spoiled", on_error="skip")
copies = find_copies(spoiled)
print(f"{copies.num_across} pair across splits, {copies.num_within} within one, of {copies.num_compared} pictures")

# %%
pair = copies.pairs[0]
by_id = {record.id: record for record in spoiled.records}
both = [by_id[pair.first].open_image(), by_id[pair.second].open_image()]
display(sheet(both, columns=2, captions=[pair.first, pair.second]))

# %% [markdown]
# Remove such a copy from `train`, not from `val`: a smaller training set costs little, a changed `val` makes all
# earlier figures incomparable.
#
# ## All of it on one page
#
# What you did by hand, and more, is one command. It writes a page that stands alone, with every chart of this
# notebook, the doubts, the copies, and samples at the size that the model will see.

# %%
command(f"boxtune inspect data --data {WORK}/spoiled --on-error skip --output-dir {WORK}/page")
print("Open", (WORK / "page/index.html").resolve())

# %% [markdown]
# ## What to take along into training
#
# - Boxes that are small *as the model sees them*: give it larger pictures (`model.max_pixels`).
# - Many boxes a picture: answers get long, training and inference slow. Ask for fewer labels, or cut pictures up.
# - Names in two spellings, names that occur once, names that `val` alone has: settle them now. Afterwards every
#   figure suffers from them, and no figure names them.
# - Copies across the splits, and boxes in doubt: look at each. Minutes here save days later.
#
# ## With your own data and a 7B model
#
# - Your data: give your folder instead of `WORK / "nutrition"`; COCO, YOLO, VOC, JSONL and Hugging Face rows are
#   found out by looking. The Open Food Facts photos are
#   `boxtune.load_dataset("openfoodfacts/nutrition-table-detection")`.
# - Your model: `MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"` counts tokens with its processor, no weights are fetched. On
#   the command line:
#   `boxtune inspect data --data FOLDER --model Qwen/Qwen2.5-VL-7B-Instruct model.max_pixels=1003520`. Large photos
#   make over a thousand tokens each, and that is what decides how many fit on a GPU.
# - A million boxes: `boxtune inspect data --data FOLDER --boxes-only` opens no picture.
#
# **Try it:** spoil the data set in a sixth way (swap two corners, turn a picture by its EXIF note) and see who
# notices.
#
# *Next: [2 · Understanding the model](02_model_understanding.ipynb), in which the picture meets the processor.*
