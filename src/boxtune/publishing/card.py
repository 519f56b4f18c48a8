"""The model card: what the files of a run say of it, and what they cannot say left open in plain sight.

Names come from users and strangers, so each stands in a code span, where Markdown and HTML mean nothing.
The keys on top are those of the hub (huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import yaml

from boxtune import __version__
from boxtune.documents import DocumentError, parse_json, parse_yaml
from boxtune.errors import ModelError
from boxtune.inference.calibrator import FILE_NAME as CALIBRATION_FILE
from boxtune.models.contract import RUN_FILE, Contract, read_contract
from boxtune.models.detection_head.saving import has_head
from boxtune.models.places import EMBEDDED, TINY, may_be_hub_id
from boxtune.models.strangers import ADAPTER_CONFIG
from boxtune.publishing.files import base_on_hub
from boxtune.publishing.licence import Licence

Part = Literal["adapter", "head"] | None
"""What a folder holds that names its base; None: all of a model."""
_KINDS: Final[dict[Part, str]] = {
    "adapter": "LoRA adapter of",
    "head": "detection head, trained beside",
    None: "model, trained from",
}
_LIBRARIES: Final[dict[Part, str]] = {"adapter": "peft", "head": "boxtune", None: "transformers"}
_TASKS: Final[dict[Part, str]] = {
    "adapter": "image-text-to-text",
    "head": "object-detection",
    None: "image-text-to-text",
}
_FIGURES: Final = {
    "map": "AP (IoU 0.50 to 0.95)",
    "map50": "AP at IoU 0.50",
    "map75": "AP at IoU 0.75",
    "mean_iou": "Mean IoU of the best assignment",
    "precision50": "Precision at IoU 0.50",
    "recall50": "Recall at IoU 0.50",
    "parse_rate": "Answers that could be read",
}


def model_card(folder: Path, repo_id: str, licence: Licence | None = None) -> str:
    """The card of a run's or a merged folder, in Markdown.

    Args:
        folder: of the model.
        repo_id: `owner/name` it will have on the hub.
        licence: of the model; None leaves the field out and says so.

    Raises:
        ModelError: a file of the run is damaged.
    """
    contract = read_contract(folder)
    assert contract is not None
    run = _read(folder / RUN_FILE)
    named = base_on_hub(folder)
    part: Part = None if named is None else "adapter" if (folder / ADAPTER_CONFIG).is_file() else "head"
    base = named or run.get("base_model")
    sections = [
        _front(base, run, part, licence),
        f"# {repo_id.partition('/')[2]}\n\n{_summary(folder, contract, base, part)}",
        _use(repo_id, part),
        _training(run, _recipe(folder)),
        _figures(_read(folder / "metrics.json")),
        _limits(contract, licence),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front(base: Any, run: dict[str, Any], part: Part, licence: Licence | None) -> str:
    content: dict[str, Any] = {} if licence is None else dict(licence.front)
    if _is_hub_id(base):
        content |= {"base_model": base, "base_model_relation": "adapter" if part else "finetune"}
    if _is_hub_id(name := _dict(run, "data").get("name")):
        content["datasets"] = [name]
    content |= {"library_name": _LIBRARIES[part], "pipeline_tag": _TASKS[part]}
    content["tags"] = ["boxtune", "object-detection", "vision-language"]
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---"


def _summary(folder: Path, contract: Contract, base: Any, part: Part) -> str:
    below = _code(base) if isinstance(base, str) and _may_be_named(base) else "a base model that its files do not name"
    parts = [f"A {_code(contract.model_type)} {_KINDS[part]} {below}: it answers a picture with boxes around objects."]
    if contract.labels:
        parts.append(f"It was taught to look for {', '.join(map(_code, contract.labels))}.")
    if part == "head":
        parts.append("The base was frozen in training and comes from where it is: the head alone is here.")
    elif has_head(folder):
        parts.append("It has a detection head beside the text (`--decoder head`).")
    if (folder / CALIBRATION_FILE).is_file():
        parts.append("Its scores are calibrated (`calibration.json`).")
    return " ".join(parts)


def _use(repo_id: str, part: Part) -> str:
    decoder = " --decoder head" if part == "head" else ""
    return f"""## How to load it

With boxtune, which asks the question of the training and reads the answer as it was taught:

    hf download {repo_id} --local-dir model
    boxtune predict --model model{decoder} --image photos --output-dir found

The question, the limits of the picture's size and the coordinates of the answer stand in `boxtune.json`; boxes are
wrong where another program does not keep to them."""


def _training(run: dict[str, Any], recipe: str | None) -> str:
    data = _dict(run, "data")
    rows = {
        "Data set": _code(data["name"]) if isinstance(data.get("name"), str) else None,
        "Images": data.get("num_images") if isinstance(data.get("num_images"), int) else None,
        "Digest of the data": _code(data["fingerprint"]) if isinstance(data.get("fingerprint"), str) else None,
        "Recipe": None if recipe is None else _code(recipe),
        "Trained parts": _trained(run.get("trained")),
        "boxtune": _code(str(_dict(run, "versions").get("boxtune") or __version__)) if run else None,
    }
    said = [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    if not said:
        return "## Training\n\nThe folder holds no record of its training (`run.json`)."
    return "\n".join(["## Training", "", "| | |", "|---|---|", *said])


def _trained(counts: Any) -> str | None:
    if not isinstance(counts, dict) or not counts:
        return None
    return ", ".join(f"{_code(area)}: {count:,} parameters" for area, count in counts.items() if isinstance(count, int))


def _figures(metrics: dict[str, Any]) -> str:
    intervals = _dict(_dict(metrics, "intervals"), "figures")
    rows = []
    for name, meaning in _FIGURES.items():
        if isinstance(value := metrics.get(name), int | float):
            low, high = (_dict(intervals, name).get(end) for end in ("low", "high"))
            known = isinstance(low, int | float) and isinstance(high, int | float)
            rows.append(f"| {meaning} | {value:.3f} | {f'{low:.3f} to {high:.3f}' if known else ''} |")
    if not rows:
        return "## Figures\n\nNone were saved with the model: judge it with `boxtune evaluate` on pictures of your own."
    counts = f"{metrics.get('num_boxes', '?')} boxes on {metrics.get('num_images', '?')} pictures"
    source = f" Scores: {metrics['score_source']}." if isinstance(metrics.get("score_source"), str) else ""
    head = f"## Figures\n\nOf {counts}, measured by boxtune; the interval is over pictures, 95 %.{source}\n"
    return "\n".join([head, "| figure | value | interval |", "|---|---|---|", *rows])


def _limits(contract: Contract, licence: Licence | None) -> str:
    taught = "It knows only the labels above." if contract.labels else "It was taught no fixed labels."
    owner = "" if licence else "\n- Its licence is not stated. That of the base model and of the data may bind it."
    return f"""## Limits

- {taught} Pictures of another kind than those of its training have to be tried out: the figures do not speak of them.
- It can miss objects and box what is not there; a score is no guarantee.
- Pictures are resized to {contract.min_pixels:,} to {contract.max_pixels:,} pixels: what is small in a large one is \
lost.{owner}"""


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_bytes())
    except DocumentError as error:
        raise ModelError(f"{path} cannot be read ({error}): put back the one of the run, or remove it.") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no object {{…}}: put back the one of the run, or remove it.")
    return content


def _recipe(folder: Path) -> str | None:
    path = folder / "config.yaml"
    try:
        content = parse_yaml(path.read_bytes()) if path.is_file() else {}
    except DocumentError as error:
        raise ModelError(f"{path} cannot be read ({error}): put back the one of the run, or remove it.") from None
    recipe = content.get("recipe") if isinstance(content, dict) else None
    return recipe if isinstance(recipe, str) else None


def _dict(content: dict[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _is_hub_id(name: Any) -> bool:
    return isinstance(name, str) and may_be_hub_id(name) and not Path(name).exists()


def _may_be_named(base: str) -> bool:
    """A folder of the machine it was trained on is nobody else's business."""
    return base == EMBEDDED or base.startswith(TINY) or _is_hub_id(base)


def _code(text: str) -> str:
    """In a code span, on one line, fit for a table."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "¦")
    return f"`{plain}`"
