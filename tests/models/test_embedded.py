"""The model in the package: small enough, whole, plain transformers, and able to find something."""

from __future__ import annotations

import pytest

import boxtune
from boxtune.models.load import load_model
from boxtune.models.places import EMBEDDED, embedded_folder


def test_size_on_disk():
    files = [path for path in embedded_folder().rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 16_000_000
    assert sum(path.stat().st_size for path in files) <= 32_000_000  # the model, and its detection head
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")]


def test_opens_in_plain_transformers():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, report = AutoModelForImageTextToText.from_pretrained(embedded_folder(), output_loading_info=True)
    assert type(model).__name__ == "Qwen2VLForConditionalGeneration"
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(AutoProcessor.from_pretrained(embedded_folder())).__name__ == "Qwen2VLProcessor"


def test_contract_and_name():
    loaded = load_model(EMBEDDED)
    assert loaded.base == loaded.model.name_or_path == EMBEDDED  # no path of this machine goes into an adapter
    assert loaded.contract.labels == ("nutrition-table",)
    assert loaded.contract.max_pixels >= 448 * 448


@pytest.mark.parametrize("decoder", ["text", "head", "both"])
def test_finds_nutrition_tables_that_it_has_never_seen(decoder):
    samples = boxtune.load_dataset("synthetic:nutrition?n=12&seed=5&size=448", "test")
    metrics = boxtune.evaluate(boxtune.load_detector(EMBEDDED, "cpu", max_new_tokens=128, decoder=decoder), samples)
    assert metrics.parse_rate == (None if decoder == "head" else 1.0)
    assert metrics.map50 > 0.6  # measured 0.96 on two hundred photos; a model that looks at nothing has below 0.1


def test_the_head_names_what_it_is_asked_for():
    """Among labels that are given, and in words of its own."""
    image = boxtune.load_dataset("synthetic:nutrition?n=1&seed=5&size=448", "test")[0].image
    free = boxtune.load_detector(EMBEDDED, "cpu", decoder="head", free_labels=True).detect([image])[0].detections
    chosen = boxtune.load_detector(EMBEDDED, "cpu", decoder="head").detect([image], ["nutrition table", "cat"])[0]
    assert set(free.labels) == {"nutrition-table"}
    assert set(chosen.detections.labels) == {"nutrition table"}
