# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3 · What to train on
#
# A conversation has a question, a picture and an answer. Should the loss look at all of its words, or at the answer
# alone? And should samples stand one a row, filled up to the longest, or one after the other in a single row without
# gaps? Three runs that differ in nothing else give the answer, as far as runs of a minute can.
#
# As far as they can: that is half of this notebook. You will see three curves and three APs, and then ask how much of
# what you see is there.
#
# *Before: [2 · Understanding the model](02_model_understanding.ipynb). Next: [4 · What a figure
# says](04_evaluation_analysis.ipynb).*

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

import torch
from IPython.display import display
from PIL import Image
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

import boxtune
from boxtune.collators.batch import Collator
from boxtune.collators.encode import SampleEncoder
from boxtune.data.conversation import ConversationStyle
from boxtune.evaluation.compare import print_comparison
from boxtune.evaluation.page.differences import verdict
from boxtune.inference.draw import draw_detections, sheet
from boxtune.inspection.tokens import analyze_token_distribution, print_tokens
from boxtune.losses import language
from boxtune.models.contract import set_pixel_limits
from boxtune.models.load import load_model

disable_progress_bar()
console = Console()

WORK = Path("runs/03")
shutil.rmtree(WORK, ignore_errors=True)
MODEL = "embedded"
SIDE = 308  # the model sees pictures of about 308 × 308 px: small, so that a run takes a minute and not an hour

# %% [markdown]
# ## A task with something to learn
#
# The embedded model knows painted packages. So let the photos come through an old fax machine, which knows black and
# white and nothing between: a kind of picture that it has never seen. The boxes stay what they were.


# %%
def fax(folder):
    """Every picture of a folder in one bit a pixel."""
    for path in folder.rglob("*.png"):
        Image.open(path).convert("1").convert("L").save(path)


photos = {split: f"synthetic:nutrition?n={n}&seed=5&size=320" for split, n in (("train", 160), ("val", 40))}
opened = {split: boxtune.load_dataset(spec, split) for split, spec in photos.items()}
boxtune.convert_dataset(opened, "coco", WORK / "fax")
fax(WORK / "fax")
val = boxtune.load_dataset(WORK / "fax", "val")
display(sheet([draw_detections(val[i].image, None, val[i].detections) for i in range(4)], columns=4, cell_px=260))

# %% [markdown]
# ## What the loss looks at
#
# The collator makes a batch of samples, and with it the *labels*: for each token either itself ("learn to write
# this") or −100 ("read it, do not learn it"). Three collators, the same four samples:

# %%
base = load_model(MODEL)
set_pixel_limits(base.processor, SIDE * SIDE, SIDE * SIDE)
encoder = SampleEncoder(base.processor, ConversationStyle(base.family.codec, val.labels))
COLLATORS = {
    "all text": Collator(encoder, labels="all_text"),
    "assistant": Collator(encoder, labels="assistant"),
    "packed": Collator(encoder, labels="assistant", batching="packed"),
}
four = [val[i] for i in range(4)]
batches = {name: collator(four) for name, collator in COLLATORS.items()}
image_token = base.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
kinds = {name: analyze_token_distribution(batch, image_token) for name, batch in batches.items()}

# %% [markdown]
# First one sample in words, as `boxtune inspect tokens` shows it. Green is trained. With `assistant`, is the stop
# token `<|im_end|>` among the trained ones? It must be, or the model never learns to stop.

# %%
one = COLLATORS["assistant"]([four[0]])
print_tokens(analyze_token_distribution(one, image_token), one, base.processor.tokenizer, console)

# %% [markdown]
# Now the three batches as pictures: a bar a row of the batch, colours by what the loss makes of the tokens.

# %%
COLOURS = {"image": "#56b4e9", "masked": "#cccccc", "trained": "#009e73", "padding": "#f0e442"}


def draw_batch(axis, distribution, title):
    """Rows of a batch, each token coloured by its kind."""
    for sample in distribution.samples:
        for run in sample.runs:
            axis.barh(sample.row, len(run), left=run.start, color=COLOURS[run.kind], height=0.7)
        if distribution.batching == "packed":
            axis.axvline(sample.start, color="black", lw=1.5)
    axis.set(title=title, yticks=range(1 + max(sample.row for sample in distribution.samples)), ylabel="row")
    axis.invert_yaxis()


fig, axes = plt.subplots(3, 1, figsize=(12, 6), height_ratios=(4, 4, 1.6), layout="constrained")
for axis, (name, distribution) in zip(axes, kinds.items(), strict=True):
    trained, padding = distribution.counts["trained"], distribution.share_padding
    draw_batch(axis, distribution, f"{name}: {trained} trained tokens, {padding:.1%} padding")
axes[-1].set_xlabel("token")
fig.legend(
    [plt.Rectangle((0, 0), 1, 1, color=c) for c in COLOURS.values()], COLOURS, loc="outside lower center", ncols=4
)
plt.show()

# %% [markdown]
# - **All text** also trains the question. It is the same in every sample, so there is little to learn from it.
# - **Assistant** trains the answer alone: a few green tokens at the end of each row.
# - **Packed** has the same green tokens. The rows stand one after the other (black lines are the borders), and
#   nothing is filled up. How much that saves depends on how much the lengths differ; here they hardly do.
#
# ## Packed is the same, only laid out in another way
#
# Positions start anew at each border, and no sample sees another. So one batch must give one loss, padded or packed.
# This can be checked to the last digits, and whoever writes a packed collator should:


# %%
@torch.inference_mode()
def loss_of(model, batch):
    """Mean −log p over the trained tokens of a batch."""
    logits = model.eval()(**batch["inputs"], use_cache=False).logits
    return float(language.total(logits, batch["targets"]) / language.count(batch["targets"]))


before = {name: loss_of(base.model, batch) for name, batch in batches.items()}
print({name: round(loss, 4) for name, loss in before.items()})
print(f"padded and packed differ by {abs(before['assistant'] - before['packed']):.1e}")

# %% [markdown]
# (`use_cache=False` matters: with a cache for generation, transformers takes the row for one long conversation.)
#
# And `all text` has another loss *with the same weights on the same samples*: it is the mean over other tokens, among
# them words of a question that this model never had to write. Keep that in mind for the curves: **losses over
# different tokens cannot be compared.**
#
# ## Three runs
#
# Equal in everything but the collator: same photos in the same order, same seed, same steps, LoRA in all areas (a new
# kind of picture concerns the vision tower too).

# %%
COMMON = [
    f"data.path={WORK}/fax",
    f"model.name={MODEL}",
    f"model.min_pixels={SIDE * SIDE}",
    f"model.max_pixels={SIDE * SIDE}",
    *("adapter.language=lora", "adapter.vision=lora", "adapter.merger=lora"),
    *("trainer.max_steps=16", "trainer.per_device_train_batch_size=8", "trainer.seed=0"),
    *("data.augment=none", "data.num_workers=0", "logging.steps=1", "logging.tensorboard=false"),
    *("evaluation.every=none", "evaluation.at_end=false"),  # we judge all of them at the end, side by side
]
RUNS = {
    "all text": ["collator.labels=all_text"],
    "assistant": ["collator.labels=assistant"],
    "packed": ["collator.labels=assistant", "collator.batching=packed"],
}
quiet = Console(quiet=True)
results = {}
for name, settings in RUNS.items():
    config = boxtune.load_config(None, [*COMMON, *settings, f"output_dir={WORK}/{name.replace(' ', '_')}"])
    results[name] = boxtune.train(config, console=quiet)
    print(f"{name:<10} {results[name].num_steps} steps, last loss {results[name].losses[-1][1]:.3f}")

# %% [markdown]
# ## The curves
#
# Left: the loss that each run reports. Before you read on: which one is best?

# %%
STYLE = {"all text": ("#d55e00", "-"), "assistant": ("#009e73", "-"), "packed": ("#0072b2", "--")}


def mean_answer_loss(folder):
    """Of a trained model, over the answers of photos that it was not trained on."""
    its_model = load_model(str(folder)).model
    parts = [COLLATORS["assistant"]([val[i] for i in range(start, start + 8)]) for start in range(0, 24, 8)]
    return float(np.mean([loss_of(its_model, batch) for batch in parts]))


held_out = {"before": mean_answer_loss(MODEL)} | {
    name: mean_answer_loss(one.output_dir) for name, one in results.items()
}
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 3.8), width_ratios=(2, 1), layout="constrained")
for name, one in results.items():
    colour, line = STYLE[name]
    left.plot(*zip(*one.losses, strict=True), line, color=colour, label=name)
left.set(xlabel="step", ylabel="loss as reported", ylim=(0, None), title="each run by its own ruler")
left.xaxis.get_major_locator().set_params(integer=True)
left.legend()
right.bar(held_out.keys(), held_out.values(), color=["#999999", *(STYLE[name][0] for name in results)])
right.set(title="all by one ruler: answers on new photos", ylim=(0.9 * min(held_out.values()), None), ylabel="loss")
plt.show()
print({name: round(loss, 4) for name, loss in held_out.items()})

# %% [markdown]
# The curve of `all text` runs at a height of its own and falls by far the most, and neither says anything about
# boxes: it is learning the words of a question that never changes. `assistant` and `packed` lie on one another, as
# they should: their differences are rounding.
#
# The right side is a fair comparison: the loss of the *answers*, on photos that nobody trained on. Mind its axis,
# which does not begin at zero. Still, a loss is not what you want. You want boxes.
#
# ## The boxes
#
# All four models (the three, and the one before training) judged on the same photos. The brackets are 95 % intervals:
# so far would the figure move with other photos of the same kind.

# %%
detectors = {"before": boxtune.load_detector(MODEL, labels=val.labels, max_new_tokens=192)}
set_pixel_limits(detectors["before"].loaded.processor, SIDE * SIDE, SIDE * SIDE)
for name, one in results.items():
    detectors[name] = boxtune.load_detector(str(one.output_dir), max_new_tokens=192)
judged = {name: boxtune.evaluate(detector, val, details=True) for name, detector in detectors.items()}

# %%
fig, axis = plt.subplots(figsize=(8, 3), layout="constrained")
for row, (name, evaluation) in enumerate(judged.items()):
    interval = evaluation.metrics.intervals.figures["map"]
    colour = STYLE.get(name, ("#999999", ""))[0]
    axis.plot([interval.low, interval.high], [row, row], color=colour, lw=6, alpha=0.4)
    axis.plot(evaluation.metrics.map, row, "o", color=colour, ms=9)
axis.set(
    yticks=range(len(judged)), yticklabels=judged, xlim=(0, 1), xlabel=f"AP on {len(val)} photos, with 95 % intervals"
)
axis.invert_yaxis()
axis.grid(axis="x", alpha=0.4)
plt.show()

# %% [markdown]
# Who is ahead of `before`, and by how much? Look also how widely the bars overlap. That alone does not say that two
# models are equal, because a hard photo is hard for all of them. The sharper question is asked pair by pair, on the
# same redrawn photos:

# %%
after = {name: judged[name] for name in ("assistant", "all text", "packed")}
comparison = boxtune.compare_models(after)
print_comparison(comparison, Console(width=140))

# %% [markdown]
# Read a row as: the figure of `all text` less that of `assistant`, and in brackets where that difference lies for 95
# % of redrawn sets of photos. If the brackets hold 0, these photos cannot tell the two apart. In words:

# %%
for model in comparison.models[1:]:
    print(verdict(model.name, "assistant", model.against_baseline, f"{len(val)} photos", "other photos"), "\n")

# %% [markdown]
# Where the bars of the picture overlap and the verdict is clear all the same, you see what pairing is worth. And
# `packed` next to `assistant` shows what rounding does over a few steps: here and there another last digit.
#
# ## What these runs do not say
#
# - **One seed.** The interval is over photos. Another seed orders the photos anew and starts the adapters elsewhere,
#   and AP moves by several hundredths for that alone. `boxtune compare --recipes lora,full --data FOLDER --seeds 3`
#   measures it.
# - **Sixteen steps.** What is ahead after sixteen steps may be behind after two thousand. Early on, a run that spends
#   most of its gradient on the question learns the answer more slowly; later the question is learned and costs
#   nothing.
# - **This model.** It was brought up without ever writing a question. A large chat model knows how to write one, and
#   its two losses lie closer together.
# - **One short question.** The longer and the more varied the text around the answer, the more the choice matters.
# - **Speed.** Packing saves the padding, which was next to nothing here. With pictures and answers of very different
#   lengths it is more; `boxtune inspect tokens --data FOLDER` says how much on yours.
#
# What does *not* depend on luck: losses over different tokens cannot be compared, packed and padded are the same to
# rounding, and the stop token must be trained. Our advice follows from that: `assistant`, and `packed` where lengths
# differ.
#
# ## With a 7B model on a GPU
#
# The three runs exist as files; everything but the collator is equal in them:
#
#     boxtune train --config configs/all_text.yaml
#     boxtune train --config configs/assistant_only.yaml
#     boxtune train --config configs/packed.yaml
#     boxtune compare --models runs/assistant_only,runs/all_text,runs/packed --data FOLDER --output-dir runs/compared
#
# In this notebook: `MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"`, `SIDE = 1000`, `adapter.vision=frozen` and
# `adapter.merger=frozen` to save memory, `trainer.max_steps=500`, batch size 2 with
# `trainer.gradient_accumulation_steps=4`.
#
# **Try it:** run `assistant` again with `trainer.seed=1`. Is the difference between the seeds larger than that
# between the collators?
#
# *Next: [4 · What a figure says](04_evaluation_analysis.ipynb), on AP and everything that hides behind it.*
