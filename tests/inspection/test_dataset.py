"""Figures and sheet of a data set."""

from __future__ import annotations

import io

from PIL import Image
from rich.console import Console

from boxtune.data.dataset import load_dataset
from boxtune.inspection.config import meanings, print_config
from boxtune.inspection.dataset import print_summary, summarize_dataset, write_sheet


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


def test_config_table_names_every_key_with_its_origin():
    out = io.StringIO()
    print_config(None, ["trainer.seed=7"], Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    assert all(any(line.lstrip().startswith(key) for line in lines) for key, _ in meanings())
    assert any("trainer.seed" in line and "7" in line and "command line" in line for line in lines)
