"""The page of a data set: figures of an `Exploration`, and samples as the model will see them. Stands alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from PIL import Image

from boxtune.collators.encode import SampleEncoder
from boxtune.data.columns import record_columns
from boxtune.data.dataset import DetectionDataset
from boxtune.data.records import Record
from boxtune.data.sample import Sample
from boxtune.errors import DataError
from boxtune.evaluation.page import charts, render
from boxtune.evaluation.page.pictures import DrawnBox, Thumbnail, drawn_boxes, text_size, thumbnail
from boxtune.inspection.dataset_boxes import split_of
from boxtune.inspection.dataset_copies import Copies
from boxtune.inspection.dataset_explore import Exploration
from boxtune.inspection.dataset_figures import BoxFigures, Histogram

MAX_BYTES: Final = 15_000_000
"""Pictures are left out where the page would become larger; it says so."""

MAX_LABELS: Final = 200
"""Rows of the table of labels."""

SAMPLE_PX: Final = 768
"""Longest side of a sample on the page; larger model inputs are shown smaller."""

_MAX_PAIRS = 12
_PAIR_PX = 280


@dataclass(frozen=True)
class SamplePicture:
    """One sample on the page.

    Attributes:
        name: id and file.
        picture: at the model's input size where a model is known, else the picture itself.
        boxes: true ones.
        letters: height of the text at boxes.
        facts: sizes and counts.
        split, labels: their numbers, for the filters.
    """

    name: str
    picture: Thumbnail
    boxes: list[DrawnBox]
    letters: float
    facts: str
    split: str
    labels: str


def write_dataset_page(
    path: Path,
    exploration: Exploration,
    dataset: DetectionDataset | None = None,
    samples: Iterable[tuple[Record, Sample]] = (),
    encoder: SampleEncoder | None = None,
    *,
    changed: bool = False,
) -> None:
    """Write the page.

    Args:
        path: file to write.
        exploration: its figures.
        dataset: for pictures of copies; None where there are no pictures.
        samples: shown with their boxes.
        encoder: of the model whose input size the samples get; None shows them as they are.
        changed: whether the samples are augmented, for the heading.

    Raises:
        SaveError: the file cannot be written.
    """
    copies = [] if dataset is None or exploration.copies is None else _copy_pictures(dataset, exploration.copies)
    room = MAX_BYTES - 1_000_000 - sum(len(a["picture"].uri) + len(b["picture"].uri) for a, b in copies)
    pictures, num_left_out = [], 0
    for record, sample in samples:
        shown = _sample_picture(record, sample, exploration, encoder, dataset)
        room -= len(shown.picture.uri) + 700 * len(shown.boxes)
        if room > 0:
            pictures.append(shown)
        else:
            num_left_out += 1
    text = render.render(
        "inspection/dataset.html",
        title=f"Data set {exploration.name}",
        e=exploration,
        label_rows=_label_rows(exploration),
        max_labels=MAX_LABELS,
        charts=_charts(exploration.figures),
        length_charts=_length_charts(exploration),
        anchors=_anchors(exploration),
        copies=copies,
        pictures=pictures,
        num_left_out=num_left_out,
        changed=changed,
        resized=encoder is not None,
    )
    render.write_page(path, text)


def _label_rows(exploration: Exploration) -> list[tuple[str, list[str]]]:
    splits = exploration.figures.splits
    rows = []
    for label in exploration.labels[:MAX_LABELS]:
        counts = [split.boxes_per_label[label] for split in splits]
        total = [f"{sum(counts):,}"] if len(splits) > 1 else []
        rows.append((label, [f"{count:,}" for count in counts] + total))
    return rows


def _charts(figures: BoxFigures) -> list[charts.Chart]:
    sizes = figures.size_classes
    return [
        _histogram("Image size", figures.image_sides_px, "longer side, px", "images"),
        _histogram("Image shape", figures.image_ratios, "width / height", "images"),
        _histogram("Boxes in an image", figures.boxes_per_image, "boxes", "images"),
        _histogram(
            "Box size",
            figures.box_sides,
            "square root of box area / image area",
            "boxes",
            f"In pixels as COCO counts them: {sizes['small']:,} small (below 32²), {sizes['medium']:,} medium "
            f"(below 96²), {sizes['large']:,} large.",
        ),
        _histogram("Box shape", figures.box_ratios, "width / height", "boxes"),
        _histogram("Area under boxes", figures.area_covered, "share of the image", "images", "Of images with a box."),
        charts.heat_map("Where boxes have their centre", figures.centres, "Upper left is the image's upper left."),
    ]


def _length_charts(exploration: Exploration) -> list[charts.Chart]:
    if exploration.lengths is None:
        return []
    return [_histogram("Tokens of a conversation", exploration.lengths.lengths, "tokens", "conversations")]


def _histogram(title: str, values: Histogram, name: str, of: str, note: str = "") -> charts.Chart:
    return charts.histogram(title, values.edges, values.counts, name, of=of, log=values.log, note=note)


def _anchors(exploration: Exploration) -> list[tuple[charts.Chart, str]]:
    return [
        (
            charts.shapes(f"{len(one.sizes)} shapes", one.sizes, f"Mean IoU with the boxes: {one.mean_iou:.3f}"),
            ", ".join(f"{width:.3f} × {height:.3f}" for width, height in one.sizes),
        )
        for one in exploration.anchors
    ]


def _sample_picture(
    record: Record,
    sample: Sample,
    exploration: Exploration,
    encoder: SampleEncoder | None,
    dataset: DetectionDataset | None,
) -> SamplePicture:
    image, boxes, labels = sample.image, sample.detections, exploration.labels
    splits = [split.name for split in exploration.figures.splits]
    facts = f"{image.width} × {image.height} px"
    if encoder is not None:
        input_hw = _input_hw(image, encoder)
        facts += f", {_seen(input_hw)}"
        height, width = input_hw or (image.height, image.width)
        boxes = boxes.scaled(width / image.width, height / image.height)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    image_hw = (image.height, image.width)
    count = len(boxes)
    return SamplePicture(
        name=record.caption,
        picture=thumbnail(image, SAMPLE_PX),
        boxes=drawn_boxes(boxes, image_hw, labels, texts=len(labels) > 1),
        letters=text_size(image_hw),
        facts=f"{facts}; {count} {'box' if count == 1 else 'boxes'}",
        split="" if dataset is None else str(splits.index(split_of(dataset, record))),
        labels=" ".join(sorted({str(labels.index(label)) for label in boxes.labels})),
    )


def _input_hw(image: Image.Image, encoder: SampleEncoder) -> tuple[int, int] | None:
    """The size that the model gets; None for a shape that it takes no picture of."""
    try:
        return replace(encoder, max_length=None).question(image).input_hw  # a sample too long is shown all the same
    except DataError:
        return None


def _seen(input_hw: tuple[int, int] | None) -> str:
    if input_hw is None:
        return "a shape that the model takes no picture of"
    return f"as the model sees it {input_hw[1]} × {input_hw[0]} px"


def _copy_pictures(dataset: DetectionDataset, copies: Copies) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    wanted = {name for pair in copies.pairs[:_MAX_PAIRS] for name in (pair.first, pair.second)}
    ids = (image_id for batch in record_columns(dataset.records) for image_id in batch.ids)
    records = {image_id: dataset.records[place] for place, image_id in enumerate(ids) if image_id in wanted}
    shown = []
    for pair in copies.pairs[:_MAX_PAIRS]:
        try:
            both = [
                {"name": records[name].caption, "split": split, "picture": _small(records[name])}
                for name, split in ((pair.first, pair.first_split), (pair.second, pair.second_split))
            ]
        except DataError:
            continue
        shown.append((both[0], both[1]))
    return shown


def _small(record: Record) -> Thumbnail:
    return thumbnail(record.open_image(), _PAIR_PX)
