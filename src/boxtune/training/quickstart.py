"""From nothing to a fine-tuned detector and a page that shows it: what `boxtune quickstart` does, in the open.

Every step is a call that a user can make on a folder of their own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from boxtune.config.load import load_config
from boxtune.console import say
from boxtune.data.convert import convert_dataset
from boxtune.data.dataset import DetectionDataset, load_dataset
from boxtune.errors import ModelError
from boxtune.evaluation.evaluate import Evaluation, evaluate, write_evaluation
from boxtune.evaluation.report import write_report
from boxtune.evaluation.summary import print_metrics
from boxtune.inference.detector import load_detector
from boxtune.models.places import EMBEDDED, embedded_folder
from boxtune.training.run import train

NEXT = "boxtune train --data FOLDER --minutes 15 --output-dir runs/mine"


@dataclass(frozen=True)
class Plan:
    """What is trained on what.

    Attributes:
        model: name of the model to start from.
        train_spec, val_spec: synthetic pictures to learn from, and to be judged on.
        overrides: settings of the run.
        note: what a reader of the result must know.
    """

    model: str
    train_spec: str
    val_spec: str
    overrides: tuple[str, ...]
    note: str


EMBEDDED_PLAN = Plan(
    EMBEDDED,
    "synthetic:nutrition?n=400&seed=11",
    "synthetic:nutrition?n=64&seed=12",
    ("adapter.language=lora", "trainer.minutes=3"),
    "The photos are made by the program. Training and judging use different ones.",
)
TINY_PLAN = Plan(
    "tiny:qwen2_vl",
    "synthetic:nutrition?n=8&seed=11&size=224",
    "synthetic:nutrition?n=8&seed=11&size=224",
    (
        "trainer.max_steps=250",
        "trainer.learning_rate=1e-3",
        "model.max_pixels=12544",
        "data.num_workers=0",
        "data.augment=none",
    ),
    "This copy has no embedded model, so a tiny model with random weights learns eight photos by heart and is judged "
    "on the same eight: it shows that the parts work together, not how well anything is found.",
)


def quickstart(output_dir: Path, console: Console) -> tuple[Evaluation, Evaluation]:
    """Make photos, evaluate, fine-tune, evaluate again; writes `report.html`. Returns both evaluations."""
    began = time.monotonic()
    plan = pick_plan()
    learned_by_heart = plan.train_spec == plan.val_spec
    console.rule("1  photos")
    photos = {"train": load_dataset(plan.train_spec, "train")}
    photos["val"] = photos["train"] if learned_by_heart else load_dataset(plan.val_spec, "val")
    folder = output_dir / "photos"
    convert_dataset(photos, "coco", folder)
    say(console, f"{len(photos['train'])} to train on and {len(photos['val'])} to judge, in {folder}")
    val = load_dataset(folder, "val")

    console.rule("2  before")
    before = _judge(plan.model, val, output_dir / "before", console, "before")
    console.rule("3  fine-tune")
    overrides = (f"data.path={folder}", f"model.name={plan.model}", f"output_dir={output_dir / 'model'}")
    judged_here = ("evaluation.at_end=false", "evaluation.every=none")
    trained = train(load_config(None, [*overrides, *plan.overrides, *judged_here]), console=console)
    console.rule("4  after")
    after = _judge(str(output_dir / "model"), val, output_dir / "after", console, "after")

    report = output_dir / "report.html"
    write_report(
        report,
        title="boxtune quickstart",
        models=[("before", before), ("after", after)],
        samples=val,
        losses=trained.losses,
        next_command=NEXT,
        notes=[plan.note],
    )
    console.rule()
    say(console, plan.note)
    minutes = (time.monotonic() - began) / 60
    say(console, f"{minutes:.1f} minutes. Look at {report}, then try your own data:\n  {NEXT}")
    return before, after


def pick_plan() -> Plan:
    """The embedded model where this copy has one."""
    try:
        embedded_folder()
    except ModelError:
        return TINY_PLAN
    return EMBEDDED_PLAN


def _judge(model: str, samples: DetectionDataset, output_dir: Path, console: Console, title: str) -> Evaluation:
    detector = load_detector(model, labels=samples.labels, batch_size=16, max_new_tokens=128)
    evaluation = evaluate(detector, samples, console=console, details=True)
    write_evaluation(output_dir, evaluation)
    print_metrics(evaluation.metrics, title, console)
    return evaluation
