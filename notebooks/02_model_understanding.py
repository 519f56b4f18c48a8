# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2 · Understanding the model
#
# A vision-language model has no box head. It looks at a picture, is asked a question, and *writes* where things are.
# So to understand how it detects, follow one picture through it: pixels become patches, patches become tokens, tokens
# stand in a row with words, and the answer is text that must be read back.
#
# *Before: [1 · What is in a data set](01_dataset_exploration.ipynb). Next: [3 · What to train
# on](03_training_comparison.ipynb).*

# %%
import logging
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np

# Other libraries talk about each other here. Leave these two lines out when something goes wrong.
warnings.filterwarnings("ignore")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from IPython.display import display
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

import boxtune
from boxtune.collators.encode import SampleEncoder, render
from boxtune.collators.positions import text_and_mrope_positions
from boxtune.data.conversation import ConversationStyle
from boxtune.inference.draw import draw_detections, sheet
from boxtune.inspection.architecture import describe_architecture, find_modules_by_pattern, list_linear_modules
from boxtune.inspection.model_tables import print_architecture, print_modules, print_plan
from boxtune.inspection.skeleton import load_skeleton
from boxtune.inspection.trainables import plan_training
from boxtune.models.areas import LowRank
from boxtune.models.contract import set_pixel_limits
from boxtune.models.places import load_processor

disable_progress_bar()
console = Console()

MODEL = "embedded"  # the small model that comes with boxtune

# %% [markdown]
# ## Four areas
#
# `load_skeleton` builds a model from its `config.json` alone: every name and shape is there, no weight is read. That
# takes seconds for a model of any size, so look before you load.
#
# Every parameter belongs to one of four areas. Which of them holds the most weights?

# %%
skeleton = load_skeleton(MODEL)
architecture = describe_architecture(skeleton.model)
print_architecture(architecture, MODEL, console)

# %% [markdown]
# - `vision` turns patches of the picture into vectors.
# - `merger` joins four neighbouring patches into one token of the language model's width.
# - `language` reads picture and question and writes the answer.
# - `lm_head` turns the last vector into a probability for each word; small models share it with the embedding
#   ("tied").
#
# In a 7B the language model is by far the largest (about 85 %), so *which area you train* decides memory and time.
#
# ## Layers, and the trap of short names
#
# LoRA adds small trainable matrices to linear layers. Which ones, you say by name. Here are those of one block of
# each half:

# %%
print_modules(list_linear_modules(skeleton.model, "model.language_model.layers.0"), "one language block", console)
print_modules(list_linear_modules(skeleton.model, "model.visual.blocks.0"), "one vision block", console)

# %% [markdown]
# In Qwen2-VL, `gate_proj` is a layer of the language model. Recipes on the web therefore write
# `target_modules=["gate_proj", …]` and mean the language model. Look at what the same word reaches in Qwen2.5-VL (a
# tiny random one has the real names):

# %%
tiny = load_skeleton("tiny:qwen2_5_vl").model
for module in find_modules_by_pattern(tiny, r"gate_proj$"):
    print(f"{module.area:<9} {module.name}")

# %% [markdown]
# The vision tower too, without a word of warning. boxtune's targets are therefore patterns for the *whole* name, one
# an area, and after wrapping it is checked that they reached what they should and nothing else.

# %%
targets = boxtune.family("qwen2_5_vl").lora_targets
for area, pattern in targets.items():
    reached = [module for module in list_linear_modules(tiny) if re.fullmatch(pattern, module.name)]
    print(f"{area:<9} {len(reached):>2} layers, all of them in", {module.area for module in reached})

# %% [markdown]
# `plan_training` says what a run would train, wrap and hold in memory, before anything is loaded: here LoRA on the
# language model, the rest frozen. Look at the share of trained weights in the last line.

# %%
how = {"language": "lora", "vision": "frozen", "merger": "frozen"}
print_plan(plan_training(skeleton.model, how, LowRank(rank=16, alpha=32)), "LoRA of rank 16", console)

# %% [markdown]
# ## The conversation as text
#
# A question and its answer are a conversation, and the chat template of the model writes it down. Special tokens mark
# who speaks and where the picture stands.

# %%
photos = boxtune.load_dataset("synthetic:nutrition?n=8&seed=2&size=448", "val")
photo = photos[0]
processor = load_processor(MODEL)
tokenizer = processor.tokenizer
style = ConversationStyle(skeleton.family.codec, photos.labels)
encoder = SampleEncoder(processor, style)
encoded = encoder.sample(photo)
answer = style.answer(photo.detections, photo.image_hw, encoded.input_hw)
text, [(start, end)] = render(processor, [*style.question(), answer])
print(text)

# %% [markdown]
# Everything after `assistant` is the answer: in training it is given, at inference the model writes it. The special
# tokens are single entries of the vocabulary; no other text can be taken for them.

# %%
meanings = {
    "<|im_start|>": "a turn begins, its speaker follows",
    "<|im_end|>": "a turn ends; the model stops here",
    "<|image_pad|>": "the place of one image token",
    "<|object_ref_start|>": "a label follows (Qwen2-VL)",
    "<|box_start|>": "a box follows (Qwen2-VL)",
}
for token, meaning in meanings.items():
    print(f"{tokenizer.convert_tokens_to_ids(token):>6}  {token:<22} {meaning}")

# %% [markdown]
# And numbers? A box is four numbers, and how they are cut into tokens matters for how hard they are to write.

# %%
for number in (7, 42, 431, 999):
    print(number, "→", [tokenizer.decode(token) for token in tokenizer(str(number))["input_ids"]])

# %% [markdown]
# Digit by digit: to place a corner the model makes three small decisions, the first of which matters most. A wrong
# hundreds digit moves the corner by a tenth of the picture, a wrong last digit by a thousandth.
#
# ## What the processor does to a picture
#
# The picture is resized so that its sides are multiples of a token's side and its area lies between two limits, cut
# into patches, and four patches become one token. The families differ in the patch. Each panel shows one photo as a
# family sees it: thin lines are patches, thick ones tokens.


# %%
def family_encoder(model_type, max_pixels=224 * 224):
    """The encoder of a family (real patches and chat template, a small vocabulary) with a limit for pictures."""
    its_processor = load_processor(f"tiny:{model_type}")
    set_pixel_limits(its_processor, 56 * 56, max_pixels)
    return SampleEncoder(its_processor, ConversationStyle(boxtune.family(model_type).codec, photos.labels))


def draw_grid(axis, image, encoder, encoded):
    """A resized picture with its patches and tokens."""
    height, width = encoded.input_hw
    patch, merge = encoder.processor.image_processor.patch_size, encoder.processor.image_processor.merge_size
    axis.imshow(image.resize((width, height)), extent=(0, width, height, 0))
    for step, line in ((patch, 0.3), (patch * merge, 1.3)):
        axis.hlines(np.arange(0, height + 1, step), 0, width, color="white", lw=line)
        axis.vlines(np.arange(0, width + 1, step), 0, height, color="white", lw=line)
    tokens = int(encoded.vision_mask.sum())
    axis.set_title(f"{width} × {height} px, patch {patch}: {tokens} tokens", fontsize=9)
    axis.axis("off")


families = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
encoders = {name: family_encoder(name) for name in families}
seen = {name: one.sample(photo) for name, one in encoders.items()}
fig, axes = plt.subplots(1, 3, figsize=(12, 5.4), layout="constrained")
for axis, name in zip(axes, families, strict=True):
    draw_grid(axis, photo.image, encoders[name], seen[name])
    axis.text(0, -0.06, name, transform=axis.transAxes)
plt.show()

# %% [markdown]
# What is smaller than a token leaves few traces in it. So the limit of the picture's area is the first thing to raise
# for small objects, and the first to lower when memory runs out: tokens grow with the area.

# %%
for side in (224, 448, 896):
    one = family_encoder("qwen2_5_vl", side * side).sample(photo)
    print(
        f"up to {side} × {side} px: input {one.input_hw[1]} × {one.input_hw[0]} px, {int(one.vision_mask.sum())} tokens"
    )

# %% [markdown]
# (The limit is a limit: a small photo is not enlarged to it.)
#
# ## One box, three families
#
# Each family was brought up with its own way to write a box. Same photo, same box:

# %%
for name in families:
    codec, one = boxtune.family(name).codec, seen[name]
    written = codec.encode(photo.detections, photo.image_hw, one.input_hw)
    back = codec.decode(written, photo.image_hw, one.input_hw).detections
    error = np.abs(back.xyxy - photo.detections.xyxy).max()
    print(f"{name}: {written}\n   read back, at most {error:.2f} px away\n")

# %% [markdown]
# Qwen2-VL and Qwen3-VL count in thousandths of the picture, Qwen2.5-VL in pixels of the *resized* picture. Numbers
# are whole, so a little is lost, less than matters. But nothing in the numbers says which convention they follow.
# What if a text of Qwen2.5-VL is read as if it were Qwen3-VL's?

# %%
one = seen["qwen2_5_vl"]
written = boxtune.family("qwen2_5_vl").codec.encode(photo.detections, photo.image_hw, one.input_hw)
misread = boxtune.family("qwen3_vl").codec.decode(written, photo.image_hw, one.input_hw)
print("status:", misread.status)
display(draw_detections(photo.image, misread.detections, photo.detections))

# %% [markdown]
# The status is `ok`: the text is flawless, the box is wrong (solid; the truth is dashed). This is why the convention
# is declared once, in the table of families, and saved with every model that boxtune trains. Nothing guesses it from
# the numbers.
#
# ## Where a token stands
#
# Words stand in a row, so their place is one number. Patches stand in a plane. Qwen-VL gives every token three
# numbers: time, row, column (M-RoPE). For words all three are the same and count on; inside a picture time stands
# still while row and column walk over the grid.

# %%
small = seen["qwen2_vl"]
merge = encoders["qwen2_vl"].processor.image_processor.merge_size
positions = text_and_mrope_positions(small.vision_mask, small.image_grid_thw, merge).numpy()
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 3.8), width_ratios=(2, 1), layout="constrained")
for name, values, colour in zip(
    ("time", "row", "column"), positions[1:], ("#000000", "#d55e00", "#0072b2"), strict=True
):
    left.plot(values, lw=1.2, color=colour, label=name)
inside = np.flatnonzero(small.vision_mask.numpy())
left.axvspan(inside[0], inside[-1], color="#dddddd", label="image tokens")
left.set(xlabel="token of the conversation", ylabel="position", title="three positions of each token")
left.legend()
right.scatter(positions[3, inside], positions[2, inside], c=inside, s=26, cmap="viridis")
right.set(xlabel="column", ylabel="row", title="image tokens, in their order", aspect="equal")
right.invert_yaxis()
plt.show()

# %% [markdown]
# In the grey part the column runs like a saw, once a row of the picture, while time is flat. After the picture all
# three go on together, from the longer side of the grid: a picture of many tokens uses up few positions. On the right
# the same tokens lie where they are in the photo.
#
# ## What it says, untrained by us
#
# `load_detector` puts model, processor and convention together. The embedded model has seen painted packages before,
# so it can be asked at once. First the raw text, then the boxes (solid: found, with their scores; dashed: true).

# %%
detector = boxtune.load_detector(MODEL, max_new_tokens=128)
predictions = list(detector.predict([sample.image for sample in photos], photos.labels))
for prediction in predictions[:3]:
    print(f"{prediction.result.status:<9} {prediction.text}")

# %%
drawn = [
    draw_detections(sample.image, prediction.result.detections, sample.detections)
    for sample, prediction in zip(photos, predictions, strict=True)
]
display(sheet(drawn, columns=4, cell_px=300))

# %% [markdown]
# The question names what to look for. Ask for something else, and see whether the answer changes; and ask for
# something that cannot be there.

# %%
for asked in ("nutrition-table", "ingredient list", "elephant"):
    [prediction] = detector.predict([photo.image], [asked])
    print(f"{asked:<16} {prediction.text}")

# %% [markdown]
# Hold the second answer against the photo: a label that was rare in the training is answered less well. And a good
# detector must be able to say that nothing is there. In this family the word is `none`, in the others an empty list.
#
# ## Reading what models really write
#
# Models are not machines for writing JSON: they are cut off, chatty, and forgetful of quotation marks. `decode` never
# raises. It reads what can be read, and says what it did: `ok` is exactly the form, `repaired` is usable after
# mending, `malformed` is not usable.

# %%
codec = boxtune.family("qwen2_5_vl").codec
texts = [
    '[{"bbox_2d": [40, 60, 200, 180], "label": "table"}]',
    "[]",
    '```json\n[{"bbox_2d": [40, 60, 200, 180], "label": "table"}]\n```',
    "[{'bbox_2d': [40, 60, 200, 180], 'label': 'table'}]",
    '[{"bbox_2d": [40, 60, 200, 180], "label": "table"}, {"bbox_2d": [300, 2',
    '[{"bbox_2d": [200, 180, 40, 60], "label": "Table"}]',
    '[{"bbox_2d": [40, 60, 9000, 180], "label": "table"}]',
    "There is no table in this image.",
    "I am sorry, I cannot help with that.",
]
for text in texts:
    found = codec.decode(text, image_hw=(480, 640), input_hw=(476, 644), labels=["table"])
    print(f"{found.status:<10} {len(found.detections)}  {text[:60]!r}\n{'':14}{found.reason}")

# %% [markdown]
# The share of `ok` and `repaired` answers is the *parse rate* in every evaluation. When it falls, look at the raw
# answers (`answers.jsonl`) before you look at anything else.
#
# ## Where scores come from
#
# AP needs a score for each box, but text has none. What the model does have is a probability for each token that it
# wrote. The score of a box is the probability that one begins here at all, rather than the answer ending, times the
# geometric mean of the tokens that say what and where. Below, the least sure of the answers, token by token.

# %%
unsure = min(range(len(photos)), key=lambda i: predictions[i].result.detections.scores.min(initial=1))
written = predictions[unsure].answer
pieces = [written.text[start:end] for start, end in written.char_spans]
fig, axis = plt.subplots(figsize=(12, 3.2), layout="constrained")
axis.bar(range(len(pieces)), np.exp(written.log_probs), color="#0072b2")
axis.set_xticks(range(len(pieces)), pieces, rotation=90, fontsize=8)
axis.set(ylabel="probability", ylim=(0, 1.05), title="how sure the model was of each token")
plt.show()

# %% [markdown]
# Brackets and commas are certain. Doubt sits where it should: in the first token, which decides whether there is an
# object at all, and in the digits, most of all in the last ones, which matter least.

# %%
result = predictions[unsure].result
for span, score, label in zip(result.spans, result.detections.scores, result.detections.labels, strict=True):
    print(f"{label}: {written.box_score(span):.3f} from these tokens; score of the detector {score:.3f}")

# %% [markdown]
# Such scores *rank* boxes well, and that is what AP asks of them. Whether 0.8 means "right eight times of ten" is
# another question, which [notebook 4](04_evaluation_analysis.ipynb) puts to them.
#
# ## With a 7B model on a GPU
#
# - `MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"` is the only change. The skeleton still needs no GPU; `load_detector` takes
#   the GPU by itself and loads bf16 weights there (about 16 GB).
# - Sections on families use tiny models: they have the real patches, chat templates and conventions.
# - On the command line: `boxtune inspect model Qwen/Qwen2.5-VL-7B-Instruct`, with settings behind it
#   (`model.quantize=nf4`) to see the plan of a run; `boxtune predict --model … --image FOLDER --labels a,b`.
#
# **Try it:** change `photos` to `synthetic:scenes?n=8` and ask for `table` or `barcode`. Where does the model
# hesitate?
#
# *Next: [3 · What to train on](03_training_comparison.ipynb): which of these tokens should the loss look at?*
