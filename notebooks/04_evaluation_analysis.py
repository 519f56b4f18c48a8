# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 · What a figure says
#
# "AP 0.43" is the end of a long calculation. This notebook walks through it: by hand on one picture, then on a data
# set, where the same number is taken apart until it says what to do next. Which mistakes cost most? At which score
# should boxes be dropped? Do scores mean anything? Would the figure be the same on other photos, and is the second
# model really better?
#
# *Before: [3 · What to train on](03_training_comparison.ipynb). Next: [5 · The whole way](05_whole_way.ipynb).*

# %%
import logging
import shutil
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

# Other libraries talk about each other here. Leave these two lines out when something goes wrong.
warnings.filterwarnings("ignore")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from IPython.display import display
from PIL import Image, ImageDraw
from transformers.utils.logging import disable_progress_bar

import boxtune
from boxtune.data.sample import Sample
from boxtune.data.synthetic.nutrition import plan_nutrition
from boxtune.detections import box_iou
from boxtune.evaluation.assignment import count_image
from boxtune.evaluation.calibrate import fit_calibrator
from boxtune.evaluation.errors import ERROR_KINDS, analyse_errors
from boxtune.evaluation.evaluate import write_evaluation
from boxtune.evaluation.intervals import draw_images, redrawn_figures
from boxtune.evaluation.judged import JudgedImage, in_coco_order
from boxtune.evaluation.metrics import MetricsAccumulator, image_figures
from boxtune.evaluation.page.differences import verdict
from boxtune.evaluation.precision_recall import precision_curves
from boxtune.evaluation.ranking import rank_images
from boxtune.evaluation.report import write_report
from boxtune.evaluation.summary import FIGURE_NAMES, figure_with_interval, format_share, print_evaluation_results
from boxtune.inference.draw import draw_detections, sheet
from boxtune.models.contract import set_pixel_limits

disable_progress_bar()
WORK = Path("runs/04")
shutil.rmtree(WORK, ignore_errors=True)
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"

# %% [markdown]
# ## How much two boxes agree
#
# Everything begins with the overlap of two boxes: the area they share over the area they cover together (IoU). Get a
# feeling for it: how far off is a box with an IoU of 0.5?

# %%
truth = np.array([[60, 40, 160, 120]])
panels = []
for shift in (5, 15, 26, 42):
    moved = truth + np.array([shift, shift * 0.4, shift, shift * 0.4])
    found = boxtune.Detections(moved, [f"IoU {box_iou(truth, moved)[0, 0]:.2f}"])
    blank = Image.new("RGB", (230, 180), "white")
    panels.append(draw_detections(blank, found, boxtune.Detections(truth, ["truth"]), labels=found.labels))
display(sheet(panels, columns=4, cell_px=240))

# %% [markdown]
# 0.5 is generous: every third pixel of the two boxes may lie outside of the other. For counting tables that is
# enough; to cut a table out for reading its text you want 0.9.
#
# ## AP by hand
#
# One picture with three things (dashed), five found boxes with scores (solid). AP asks: if you go through the found
# boxes from the surest to the least sure, how soon do right ones come, and how many wrong ones in between?


# %%
def hand_made_scene():
    """Three true boxes, five found ones: right, wrong, right, twice the same, right."""
    true = [[20, 30, 110, 110], [150, 20, 250, 90], [60, 150, 220, 230]]
    found = [[22, 28, 112, 108], [255, 150, 300, 230], [155, 24, 252, 96], [34, 46, 114, 116], [75, 158, 228, 236]]
    return (
        boxtune.Detections(true, ["table"] * 3),
        boxtune.Detections(found, ["table"] * 5, [0.9, 0.8, 0.7, 0.6, 0.5]),
    )


true, found = hand_made_scene()
canvas = Image.new("RGB", (310, 250), "#f4f4f2")
for x1, y1, x2, y2 in true.xyxy:
    ImageDraw.Draw(canvas).rectangle((x1, y1, x2 - 1, y2 - 1), fill="#dddddd")
display(draw_detections(canvas, found, true))

# %% [markdown]
# At IoU 0.5 a found box is right if it covers a true box that no surer one has taken. After each row, *precision* is
# the share of right boxes so far, *recall* the share of things found so far.

# %%
right = np.array([True, False, True, False, True])
precision, recall = right.cumsum() / np.arange(1, 6), right.cumsum() / 3
print("score  right  precision  recall")
for row in zip(found.scores, right, precision, recall, strict=True):
    print("{:5.1f}  {!s:<5}  {:9.3f}  {:6.3f}".format(*row))

# %% [markdown]
# AP is the area under precision along recall, where a dip is filled up to the best that comes later (it would be
# unfair to punish a list for being cut at an unlucky place). COCO reads it at 101 recalls: here 34 of them at 1, 33
# at 2/3 and 34 at 3/5. Does boxtune agree with that sum?

# %%
image = JudgedImage("by hand", true, found)
curve = precision_curves(rank_images([image])).mean["0.50"]
print(f"by hand {(34 * 1 + 33 * 2 / 3 + 34 * 3 / 5) / 101:.6f}, boxtune {np.mean(curve):.6f}")
fig, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.fill_between(np.linspace(0, 1, 101), curve, step="pre", alpha=0.25, color=BLUE, label="AP50 is this area")
axis.plot(recall, precision, "o-", color=ORANGE, label="row by row")
axis.set(xlabel="recall", ylabel="precision", ylim=(0, 1.05))
axis.legend(loc="lower left")
plt.show()

# %% [markdown]
# COCO's headline AP does this ten times, for IoU 0.50, 0.55 … 0.95, and takes the mean. So it asks two things at
# once: is it found, and how exactly?

# %%
accumulator = MetricsAccumulator()
accumulator.update("by hand", (250, 310), true, found)
by_hand = accumulator.compute(num_resamples=0)
print(f"AP50 {by_hand.map50:.3f}, AP75 {by_hand.map75:.3f}, AP over all ten {by_hand.map:.3f}")

# %% [markdown]
# ## A data set that is not easy
#
# Now a real evaluation. On the painted packages we ask for five kinds of parts at once, which is harder than tables
# alone: things look alike, some are small, and there are many.


# %%
def part_sample(number):
    """A painted package with all of its parts as true boxes."""
    photo = plan_nutrition(number, 448)
    boxes = photo.detections("nutrition-table", all_parts=True)
    return Sample(str(number), Image.fromarray(photo.paint()), boxes, "painted")


samples = [part_sample(number) for number in range(900_000_000, 900_000_040)]
labels = tuple(sorted({label for sample in samples for label in sample.detections.labels}))
print(f"{len(samples)} photos, {sum(len(sample.detections) for sample in samples)} boxes of {', '.join(labels)}")

# %%
MODEL = "embedded"
detector = boxtune.load_detector(MODEL, labels=labels, max_new_tokens=400)
evaluation = boxtune.evaluate(detector, samples, details=True)
metrics = evaluation.metrics
print_evaluation_results(metrics, f"{MODEL}, asked for {len(labels)} parts")

# %% [markdown]
# `details=True` keeps what was found in each picture; everything below is computed from that, without asking the
# model again.
#
# There are boxes of two ranks. What the model *answers* is what a user gets. Where it ends its answer, boxtune makes
# it go on for a few more boxes that it held possible but unlikely: the *candidates*. AP and all else that goes by
# score ranks them too, far below, as it does for detectors that give a hundred boxes a picture. Counts, IoU and
# precision look at the answers alone.

# %%
print(f"{metrics.num_boxes} true boxes, {metrics.num_predictions} in answers, {metrics.num_candidates} candidates")

# %% [markdown]
# ## The plain table: IoU
#
# Before AP became usual, people reported overlaps: found and true boxes are paired as well as possible, whatever
# their scores, and the IoUs of the pairs are looked at.

# %%
rows = {
    "mean IoU of the pairs": metrics.mean_iou,
    "median IoU of the pairs": metrics.median_iou,
    "mean IoU of all true boxes (missed: 0)": metrics.mean_iou_all,
    "found at IoU 0.5 (detection rate)": metrics.detection_rate50,
    "found at IoU 0.7": metrics.detection_rate70,
    "precision at IoU 0.5": metrics.precision50,
}
for name, value in rows.items():
    print(f"{name:<40} {value:.3f}")

# %% [markdown]
# Mind the first and the third row. Both are called "mean IoU" in papers. The first forgets what was missed: a model
# that finds one box in ten, but exactly, looks splendid. Never read it without the detection rate beside it.

# %%
pairs = [iou for image in evaluation.judged for iou in count_image(image.truth, image.predicted).iou]
fig, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
axis.hist(pairs, np.linspace(0, 1, 21), color=BLUE, edgecolor="white")
for limit in (0.5, 0.7):
    axis.axvline(limit, color=ORANGE, ls="--")
    axis.text(limit + 0.01, axis.get_ylim()[1] * 0.9, f"{np.mean(np.array(pairs) >= limit):.0%} of pairs", color=ORANGE)
missed = metrics.num_boxes - len(pairs)
axis.set(
    xlabel="IoU of a pair", ylabel="pairs", title=f"{len(pairs)} pairs; {missed} true boxes have no partner at all"
)
plt.show()

# %% [markdown]
# ## AP by label and by size
#
# An average over labels hides which label is at fault, and small things are harder than large ones (a dash: there was
# nothing of that size).

# %%
for label, one in metrics.per_class.items():
    print(f"{label:<16} AP {format_share(one['ap'])}  AP50 {format_share(one['ap50'])}  of {one['num_boxes']} boxes")
print()
for size in ("small", "medium", "large"):
    print(f"{size:<16} AP {format_share(getattr(metrics, f'map_{size}'))}")

# %%
fig, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
for label, curves in evaluation.curves.per_class.items():
    axis.plot(np.linspace(0, 1, 101), curves["0.50"], label=f"{label} ({np.mean(curves['0.50']):.2f})")
axis.set(xlabel="recall", ylabel="precision", ylim=(0, 1.05), title="at IoU 0.5; AP50 in brackets")
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# Where a line ends early, the model does not find the rest at any score: more or other training images are needed.
# Where it falls early, the surest boxes are wrong already: look for mistaken labels.
#
# ## At which score?
#
# To *use* a detector you must choose a threshold: boxes below it are dropped. Precision rises with it, recall falls,
# and F1 (their harmonic mean) is highest in between.

# %%
points, best = metrics.confidence.points, metrics.confidence.best
thresholds = [point.threshold for point in points]
fig, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
for name, colour in (("precision", BLUE), ("recall", GREEN), ("f1", ORANGE)):
    axis.plot(thresholds, [getattr(point, name) for point in points], color=colour, label=name)
axis.axvline(best.threshold, color="grey", ls=":")
axis.set(xlabel="threshold of the score", ylim=(0, 1.05), title=f"best F1 {best.f1:.2f} at {best.threshold:.2f}")
axis.legend()
plt.show()

# %% [markdown]
# This best threshold was chosen on the photos that judge it, so its F1 flatters. The honest way takes it from one
# half of the photos and uses it on the other:

# %%
first, second = evaluation.judged[::2], evaluation.judged[1::2]
chosen = image_figures(first, num_resamples=0)["confidence"].best
others = image_figures(second, num_resamples=0)["confidence"].points
elsewhere = min(others, key=lambda point: abs(point.threshold - chosen.threshold))
print(f"threshold {chosen.threshold:.2f}: F1 {chosen.f1:.3f} where it was chosen, {elsewhere.f1:.3f} on the other half")

# %% [markdown]
# ## Which mistakes cost most?
#
# A wrong box can be wrong in several ways (the kinds of TIDE, Bolya et al. 2020). `dap50` is what AP50 would gain if
# all mistakes of this kind alone were mended. Begin with the longest bar of the right side, not with the most
# frequent kind: mistakes of low score are many and cost little.

# %%
analysis = analyse_errors(in_coco_order(evaluation.judged))
counts, gains = analysis.summary.counts, analysis.summary.dap50
fig, (left, right_side) = plt.subplots(1, 2, figsize=(10, 2.8), sharey=True, layout="constrained")
left.barh(ERROR_KINDS, [counts[kind] for kind in ERROR_KINDS], color="#999999")
left.set(xlabel="how many", title="how often")
right_side.barh(ERROR_KINDS, [gains[kind] or 0 for kind in ERROR_KINDS], color=ORANGE)
right_side.set(xlabel="AP50 gained without them", title="what they cost")
left.invert_yaxis()
plt.show()

# %% [markdown]
# What each kind looks like. Solid is the found box with its mistake, dashed the true box that it was measured
# against.


# %%
by_id = {image.sample_id: (sample, image) for sample, image in zip(samples, evaluation.judged, strict=True)}


def draw_mistake(box):
    """The picture of one wrong box."""
    sample, image = by_id[box.sample_id]
    shown = boxtune.Detections(image.ranked.xyxy[[box.index]], [f"{box.label}?"], [box.score])
    partner = None if box.truth_index is None else image.truth.select([box.truth_index])
    return draw_detections(sample.image, shown, partner)


wrong = [next((box for box in analysis.found if box.kind == kind), None) for kind in ERROR_KINDS]
wrong = [box for box in wrong if box is not None]
captions = [f"{box.kind}, IoU {box.iou:.2f}" for box in wrong]
pictures = [draw_mistake(box) for box in wrong]
for box in [box for box in analysis.missed if not box.covered][:1]:
    sample, image = by_id[box.sample_id]
    pictures.append(draw_detections(sample.image, None, image.truth.select([box.index])))
    captions.append("missed")
display(sheet(pictures, columns=3, cell_px=380, captions=captions))

# %% [markdown]
# What to do about each kind:
#
# | kind | often means |
# |---|---|
# | `classification` | labels that look alike, or mean the same: merge them, or show more of both |
# | `localisation` | boxes drawn loosely in the data, or pictures too small for the model |
# | `both` | a guess; seldom worth its own cure |
# | `duplicate` | the data holds doubles, or things that lie in one another |
# | `background` | unlabelled things in the data: look at some, half of them may be right |
# | `missed` | too small, too rare, too many: larger input, more samples |
#
# ## Do scores mean what they say?
#
# Of all boxes with a score near 0.8, eight of ten should be right. Points on the dashed line mean just that; below it
# the model is too sure, above it too modest. Larger points stand for more boxes.

# %%
bins = metrics.calibration.bins
fig, axis = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
axis.plot([0, 1], [0, 1], "--", color="grey")
said, came_true, sizes = zip(*((b.mean_score, b.share_right, 12 * b.num_boxes) for b in bins), strict=True)
axis.scatter(said, came_true, sizes, color=BLUE, alpha=0.6)
axis.set(xlabel="score", ylabel="share that was right", title=f"off by {metrics.calibration.ece:.2f} on average")
plt.show()

# %% [markdown]
# Scores that rank well can be mended: a rising curve maps them to shares, and the order of boxes (and so AP) stays.
# `fit_calibrator` fits on one half of the photos and measures on the other.

# %%
fit = fit_calibrator(evaluation.judged)
kind = "none needed" if fit.calibrator is None else fit.calibrator.kind
print(f"off by {fit.before.ece:.3f} as they are, {fit.after.ece:.3f} mended ({kind}), on photos not fitted on")

# %% [markdown]
# On a model of your own, `boxtune calibrate --model runs/mine --data FOLDER --split train` saves the curve beside the
# weights.
#
# ## How sure is the figure itself?
#
# Other photos of the same kind would have given another AP. How far another, the bootstrap tells: draw forty photos
# out of the forty, *with replacement* (some come twice, some not at all), compute AP, and do it a thousand times.

# %%
judged = in_coco_order(evaluation.judged)
redrawn = redrawn_figures(judged, rank_images(judged), draw_images(len(judged), 1000, seed=0))
interval = metrics.intervals.figures["map"]
fig, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
axis.hist(redrawn["map"].values, 40, color=BLUE, alpha=0.7)
axis.axvspan(interval.low, interval.high, color=GREEN, alpha=0.15, label="95 % of redrawn sets")
axis.axvline(metrics.map, color=ORANGE, label="on the photos as they are")
axis.set(xlabel="AP", ylabel="redrawn sets")
axis.legend()
plt.show()

# %% [markdown]
# Whoever reports "AP 0.43 → 0.45" on so few photos reports nothing. Every headline figure of boxtune comes with its
# interval:

# %%
for figure, name in FIGURE_NAMES.items():
    print(f"{name:<20} {figure_with_interval(metrics, figure)}")

# %% [markdown]
# ## Two models, the same photos
#
# Is the same model worse if its pictures are smaller? That costs a third of the time, so it would be good to know.
# Both are judged on the same photos, and that is worth a lot: a hard photo is hard for both. So not the two intervals
# are compared, but the *difference* gets an interval of its own, with both models on the same redrawn photos.

# %%
set_pixel_limits(detector.loaded.processor, 336 * 336, 336 * 336)
smaller = boxtune.evaluate(detector, samples, details=True)
comparison = boxtune.compare_models({"448 px": evaluation, "336 px": smaller})
differences = comparison.models[1].against_baseline
print(verdict("336 px", "448 px", differences, f"{len(samples)} photos", "other photos"))

# %%
fig, axis = plt.subplots(figsize=(8, 3), layout="constrained")
for row, one in enumerate(differences.values()):
    if one is not None:
        axis.plot([one.interval.low, one.interval.high], [row, row], color=BLUE, lw=5, alpha=0.4)
        axis.plot(one.value, row, "o", color=BLUE)
axis.axvline(0, color="grey", ls="--")
axis.set(yticks=range(len(differences)), yticklabels=[FIGURE_NAMES[figure] for figure in differences])
axis.set(xlabel="336 px less 448 px; left of the line is worse")
axis.invert_yaxis()
plt.show()

# %% [markdown]
# A bar that does not touch the dashed line is a difference that other photos of this kind would show too. A bar
# across it is an open question, not a proof that the two are equal.
#
# ## Look at the worst
#
# No figure replaces looking. Pictures are graded by the overlap of their pairs over all true and all wrong boxes, and
# the worst are shown: found solid, true dashed.


# %%
def grade(image):
    """1 where everything is found exactly and nothing else; 0 where nothing is."""
    one = count_image(image.truth, image.predicted)
    wrong_boxes = one.num_predictions - len(one.iou)
    return sum(one.iou) / max(1, one.num_boxes + wrong_boxes)


worst = sorted((image for image in evaluation.judged if len(image.truth)), key=grade)[:6]
pictures = [draw_detections(by_id[one.sample_id][0].image, one.predicted, one.truth, labels=labels) for one in worst]
display(sheet(pictures, columns=3, cell_px=400, captions=[f"grade {grade(one):.2f}" for one in worst]))

# %% [markdown]
# And what did it say to the worst of them? Sometimes the fault is in the text, not in the eyes.

# %%
[shown] = [image for image in evaluation.images if image.sample_id == worst[0].sample_id]
print(shown.prediction.result.status, "|", shown.prediction.text[:600])

# %% [markdown]
# ## All of it on one page
#
# `write_report` writes a page that stands alone, with all of these charts and a gallery that can be filtered by kind
# of mistake; several models may stand side by side. `write_evaluation` writes the files that other tools read.

# %%
write_evaluation(WORK, evaluation)
write_report(WORK / "report.html", title="Package parts", models=[("448 px", evaluation)], samples=samples)
print("Open", (WORK / "report.html").resolve())
print("Beside it:", ", ".join(sorted(path.name for path in WORK.iterdir())))

# %% [markdown]
# ## With a 7B model on a GPU
#
# - `MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"`, and `samples = boxtune.load_dataset("FOLDER", split="val")` for your
#   photos. Give `load_detector` a larger `batch_size`.
# - On the command line: `boxtune evaluate --model M --data FOLDER --output-dir runs/m` makes the files and the page;
#   `boxtune compare --models runs/a,runs/b --data FOLDER --output-dir runs/a-b` the paired comparison with a page of
#   its own; `boxtune score --annotations val.json --predictions theirs.json` judges the boxes of any other detector
#   with the same code.
# - Take hundreds of photos: the width of an interval falls with the square root of their number.
#
# **Try it:** ask for two of the parts only (`labels=("nutrition-table", "barcode")`). Which mistakes vanish, which do
# not?
#
# *Next: [5 · The whole way](05_whole_way.ipynb), in which all of this is done once from end to end.*
