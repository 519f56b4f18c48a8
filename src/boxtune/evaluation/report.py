"""A report to look at: one HTML page that stands alone, with figures of every model and pictures with their boxes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from PIL import Image

from boxtune.detections import Detections
from boxtune.errors import SaveError
from boxtune.evaluation.metrics import Metrics, Status
from boxtune.evaluation.summary import format_share
from boxtune.evaluation.summary import notes as metric_notes
from boxtune.inference.draw import draw_detections

IMAGE_WIDTH: Final = 640
"""Pictures are embedded at most this wide, in pixels."""


@dataclass(frozen=True)
class ModelAnswer:
    """What one model said of one picture.

    Attributes:
        model: its name, as in the table.
        predicted: boxes read from the answer, in pixels of the picture.
        raw_text: the answer as it was written.
        status: how it could be read.
    """

    model: str
    predicted: Detections
    raw_text: str
    status: Status = "ok"


@dataclass(frozen=True)
class GalleryItem:
    """One picture of the gallery.

    Attributes:
        sample_id: shown above it.
        image: upright.
        truth: true boxes in pixels of `image`.
        answers: one a model, side by side.
    """

    sample_id: str
    image: Image.Image
    truth: Detections
    answers: tuple[ModelAnswer, ...]


_Figure = tuple[str, Callable[[Metrics], float | int | None], str]

_FIGURES: Final[tuple[_Figure, ...]] = (
    ("AP", lambda m: m.map, "COCO average precision over IoU 0.50 to 0.95"),
    ("AP50", lambda m: m.map50, "at IoU 0.50"),
    ("AP75", lambda m: m.map75, "at IoU 0.75"),
    ("Mean IoU", lambda m: m.mean_iou, "of found boxes that met a true one"),
    ("Mean IoU, misses as 0", lambda m: m.mean_iou_all, "over all true boxes"),
    ("Found", lambda m: m.detection_rate50, "share of true boxes found at IoU 0.50"),
    ("Precision", lambda m: m.precision50, "share of found boxes that are right at IoU 0.50"),
    ("Readable answers", lambda m: m.parse_rate, "as written or repaired"),
    ("Repaired answers", lambda m: m.repaired_rate, ""),
    ("Images", lambda m: m.num_images, ""),
    ("True boxes", lambda m: m.num_boxes, ""),
    ("Found boxes", lambda m: m.num_predictions, ""),
)


def write_report(
    path: Path,
    *,
    title: str,
    metrics_rows: Sequence[tuple[str, Metrics]],
    gallery: Sequence[GalleryItem] = (),
    next_command: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page; it needs no network and no other file.

    Args:
        path: file to write.
        title: heading.
        metrics_rows: (model, figures), one column of the table each, in the order before, after.
        gallery: pictures with their true and found boxes.
        next_command: what to type next.
        notes: plain sentences below the table; those that the figures call for come by themselves.

    Raises:
        SaveError: the file cannot be written.
    """
    try:
        path.write_text(
            report_html(title, metrics_rows, gallery, next_command, notes), encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror}. Choose another place.") from None


def report_html(
    title: str,
    metrics_rows: Sequence[tuple[str, Metrics]],
    gallery: Sequence[GalleryItem],
    next_command: str | None,
    notes: Sequence[str],
) -> str:
    """The page as text; everything that comes from data is escaped."""
    own_notes = [
        f"{name}: {note}" if len(metrics_rows) > 1 else note
        for name, metrics in metrics_rows
        for note in metric_notes(metrics)
    ]
    labels = list(dict.fromkeys(label for _, metrics in metrics_rows for label in metrics.per_class))
    parts = [
        f"<h1>{escape(title)}</h1>",
        _figures_table(metrics_rows),
        _class_table(metrics_rows, labels) if len(labels) > 1 else "",
        "".join(f"<p class=note>{escape(note)}</p>" for note in [*notes, *own_notes]),
        f"<p>Next: <code>{escape(next_command)}</code></p>" if next_command else "",
        _gallery(gallery, labels),
    ]
    # In one pass, so that a placeholder in someone's text stays text.
    return _PAGE.substitute(title=escape(title), body="\n".join(part for part in parts if part))


def _figures_table(rows: Sequence[tuple[str, Metrics]]) -> str:
    lines = []
    for name, read, meaning in _FIGURES:
        cells = "".join(_cell(value) for value in _compared([read(metrics) for _, metrics in rows], name))
        hint = f"<small>{escape(meaning)}</small>" if meaning else ""
        lines.append(f"<tr><th scope=row>{escape(name)}{hint}</th>{cells}</tr>")
    return _table("", rows, lines)


def _class_table(rows: Sequence[tuple[str, Metrics]], labels: Sequence[str]) -> str:
    lines = []
    for label in labels:
        figures = [metrics.per_class.get(label, {}) for _, metrics in rows]
        count = max((int(of_model.get("num_boxes") or 0) for of_model in figures), default=0)
        cells = "".join(_cell(value) for value in _compared([of_model.get("ap") for of_model in figures], "AP"))
        boxes = f"{count} true box" if count == 1 else f"{count} true boxes"
        lines.append(f"<tr><th scope=row>{escape(label)}<small>{boxes}</small></th>{cells}</tr>")
    return _table("AP by label", rows, lines)


def _table(corner: str, rows: Sequence[tuple[str, Metrics]], lines: Sequence[str]) -> str:
    heads = "".join(f"<th scope=col>{escape(name)}</th>" for name, _ in rows)
    return (
        f"<div class=scroll><table><thead><tr><th>{escape(corner)}</th>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


_COUNTS: Final = frozenset({"Images", "True boxes", "Found boxes"})
_NOT_BETTER_WHEN_HIGHER: Final = _COUNTS | {"Repaired answers"}


def _compared(values: Sequence[float | int | None], name: str) -> list[tuple[str, bool]]:
    """Text of each value, and whether it is the best of several that differ."""
    known = [value for value in values if value is not None]
    decides = name not in _NOT_BETTER_WHEN_HIGHER and len(set(known)) > 1
    texts = [str(value) if name in _COUNTS else format_share(value) for value in values]
    return [(text, decides and value == max(known)) for text, value in zip(texts, values, strict=True)]


def _cell(value: tuple[str, bool]) -> str:
    text, best = value
    return f"<td class=best>{text}</td>" if best else f"<td>{text}</td>"


def _gallery(items: Sequence[GalleryItem], labels: Sequence[str]) -> str:
    if not items:
        return ""
    key = "<p class=key><span class=found></span> found, a colour a label <span class=true></span> true</p>"
    return f"<h2>Pictures</h2>{key}" + "".join(_gallery_item(item, labels) for item in items)


def _gallery_item(item: GalleryItem, labels: Sequence[str]) -> str:
    scale = min(1.0, IMAGE_WIDTH / item.image.width)
    size = (max(1, round(item.image.width * scale)), max(1, round(item.image.height * scale)))
    small = item.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    # Per axis, since rounding to whole pixels may have changed the shape a little.
    factors = size[0] / item.image.width, size[1] / item.image.height
    truth = item.truth.scaled(*factors)
    figures = []
    for answer in item.answers:
        drawn = draw_detections(small, answer.predicted.scaled(*factors), truth, labels=labels)
        name = escape(answer.model)
        status = "" if answer.status == "ok" else f" <span class={answer.status}>{answer.status}</span>"
        found = f"{len(answer.predicted)} found, {len(item.truth)} true"
        figures.append(
            f'<figure><img src="{_data_uri(drawn)}" width={size[0]} height={size[1]} loading=lazy '
            f'alt="{escape(item.sample_id)}: boxes of {name}">'
            f"<figcaption><b>{name}</b>{status} <small>{found}</small></figcaption>"
            f"<details><summary>answer</summary><pre>{escape(answer.raw_text) or '(nothing)'}</pre></details></figure>"
        )
    return f"<section><h3>{escape(item.sample_id)}</h3><div class=pair>{''.join(figures)}</div></section>"


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


_PAGE: Final = Template("""<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<title>$title</title>
<style>
:root { --paper: #fcfcfa; --ink: #1d1f21; --faint: #6a6f75; --line: #dcdcd6; --best: #0a7a52; --warn: #a14a00 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181a; --ink: #e6e6e3; --faint: #9aa0a6; --line: #34383c; --best: #4cc38a; --warn: #f0a35e }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 .5rem; color: var(--faint) }
.scroll { overflow-x: auto; margin: 0 0 1.5rem }
table { border-collapse: collapse; min-width: min(100%, 24rem) }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
td, thead th + th { text-align: right; padding: .35rem 0 .35rem 1.5rem; font-variant-numeric: tabular-nums }
tbody th { font-weight: 500; overflow-wrap: break-word }
thead th { font-size: .9rem; color: var(--faint); overflow-wrap: break-word }
small { color: var(--faint); font-weight: 400; font-size: .85rem }
th small { display: block; line-height: 1.3 }
.best { color: var(--best); font-weight: 700 }
.note { margin: .25rem 0; padding-left: .75rem; border-left: 3px solid var(--warn) }
code { display: inline-block; padding: .15rem .4rem; border: 1px solid var(--line); border-radius: 4px;
  font-size: .9rem }
.key { color: var(--faint); margin: 0 0 1rem }
.key span { display: inline-block; width: 1.8rem; vertical-align: middle; margin: 0 .2rem 0 .6rem }
.key span:first-child { margin-left: 0 }
.found { border-top: 4px solid #d55e00 }
.true { height: 4px; border: 1px solid #000; background: repeating-linear-gradient(90deg, #fff 0 6px, #000 6px 12px) }
section { margin: 0 0 2rem }
.pair { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)) }
figure { margin: 0; max-width: 640px }
img { display: block; max-width: 100%; max-height: 32rem; width: auto; height: auto; border-radius: 4px }
figcaption { margin-top: .35rem }
.repaired, .malformed { color: var(--warn); font-size: .85rem; font-weight: 600 }
summary { cursor: pointer; color: var(--faint); font-size: .9rem }
pre { white-space: pre-wrap; margin: .4rem 0 0; padding: .6rem; border: 1px solid var(--line); border-radius: 4px;
  font-size: .8rem; max-height: 20rem; overflow: auto }
</style>
<body>
$body
</body>
</html>
""")
