"""A run whose images come from an index is the run whose images come from a list."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.data import DataLoader

from boxtune.data import index, opening
from boxtune.data.dataset import load_dataset
from boxtune.data.mapped_records import MappedRecords
from training.runs import short_run, weights, write_coco


@pytest.fixture
def with_index(tmp_path, monkeypatch):
    monkeypatch.setenv("BOXTUNE_CACHE", str(tmp_path / "cache"))

    def switch(on: bool) -> None:
        monkeypatch.setattr(opening, "INDEXED_FROM", 1 if on else 10**9)

    return switch


def test_the_same_losses_weights_and_figures(tmp_path, with_index):
    coco = write_coco(tmp_path / "coco")
    style = (
        "collator.batching=packed",
        "collator.token_budget=400",
        "evaluation.at_end=true",
        "data.val_fraction=0.34",
    )
    found = []
    for name, on in (("list", False), ("index", True), ("index-again", True)):
        with_index(on)
        result, _ = short_run(coco, tmp_path / name, *style, "data.num_workers=1")
        found.append((result.losses, result.metrics, json.loads((tmp_path / name / "run.json").read_text())["data"]))
        assert index.cache_folder().exists() == on
    assert found[0] == found[1] == found[2]
    assert found[0][1].num_images == 2
    for name, tensor in weights(tmp_path / "list").items():
        assert torch.equal(tensor, weights(tmp_path / "index")[name])


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_map_it_themselves(tmp_path, with_index, how):
    with_index(True)
    dataset = load_dataset(write_coco(tmp_path / "coco"))
    assert isinstance(dataset.records, MappedRecords)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=how)
    assert [sample.id for sample in loader] == [record.id for record in dataset.records]
