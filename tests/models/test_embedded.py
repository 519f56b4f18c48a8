"""The model in the package: small enough, whole, plain transformers, and able to find something."""

from __future__ import annotations

import boxtune
from boxtune.models.load import load_model
from boxtune.models.places import EMBEDDED, embedded_folder


def test_size_on_disk():
    files = [path for path in embedded_folder().rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 16_000_000
    assert sum(path.stat().st_size for path in files) <= 20_000_000
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


def test_finds_nutrition_tables_that_it_has_never_seen():
    samples = boxtune.load_dataset("synthetic:nutrition?n=12&seed=5&size=448", "test")
    metrics = boxtune.evaluate(boxtune.load_detector(EMBEDDED, "cpu", max_new_tokens=128), samples)
    assert metrics.parse_rate == 1.0
    assert metrics.map50 > 0.6  # measured 0.88 on two hundred photos; a model that looks at nothing has below 0.1
