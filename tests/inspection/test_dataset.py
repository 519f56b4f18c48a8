"""Figures and sheet of a data set."""

from __future__ import annotations

import io
import re
from dataclasses import replace

from PIL import Image
from rich.console import Console

from boxtune.data.dataset import load_dataset
from boxtune.inspection.config import meanings, print_config
from boxtune.inspection.dataset import print_summary, summarize_dataset, write_sheet
from boxtune.inspection.dataset_figures import SplitCounts
from training.runs import write_coco


def test_summary_counts_by_hand(shared_data):
    summary = summarize_dataset(load_dataset(str(shared_data / "doc-tables"), "val"))
    assert (summary.num_images, summary.num_boxes, summary.num_empty) == (24, 33, 0)
    assert summary.boxes_per_label == {"table": 33}
    assert summary.image_sides_px == (1024, 1024, 1024)


def test_sheet_and_printing(tmp_path):
    dataset = load_dataset("synthetic:nutrition?n=5&size=96", "train")
    write_sheet(dataset, tmp_path / "new" / "sheet.jpg", augment="strong", flip=("horizontal",))
    assert Image.open(tmp_path / "new" / "sheet.jpg").width > 600
    out = io.StringIO()
    print_summary(summarize_dataset(dataset), "five photos", Console(file=out, width=100))
    assert "five photos" in out.getvalue()
    assert "nutrition-table" in out.getvalue()


def test_splits_get_a_line_each(tmp_path):
    write_coco(tmp_path / "coco", 4, labels=("[red]box[/red]",))
    dataset = load_dataset(tmp_path / "coco")
    splits = [SplitCounts("train", 3, 1, 7, {}), SplitCounts("[bold]odd[/bold]", 1, 0, 2, {})]
    out = io.StringIO()
    print_summary(summarize_dataset(dataset), "four", Console(file=out, width=100), splits)
    assert "[red]box[/red]" in out.getvalue()
    assert re.search(r"train +3 +1 +7", out.getvalue())
    assert re.search(r"\[bold\]odd\[/bold\] +1 +0 +2", out.getvalue())


def test_captions_name_the_file(tmp_path):
    write_coco(tmp_path / "coco", 2)
    first, other = load_dataset(tmp_path / "coco").records
    assert first.caption == "1"  # 1.png says no more
    assert replace(other, id="photo").caption == "photo · 2.png"
    assert load_dataset("synthetic:nutrition?n=1", "train").records[0].caption


def test_config_table_names_every_key_with_its_origin():
    out = io.StringIO()
    print_config(None, ["trainer.seed=7"], Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    assert all(any(line.lstrip().startswith(key) for line in lines) for key, _ in meanings())
    assert any("trainer.seed" in line and "7" in line and "command line" in line for line in lines)
