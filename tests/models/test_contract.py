"""What is saved beside the weights, and what of it is refused."""

from __future__ import annotations

import json

import pytest

from boxtune.errors import ModelError
from boxtune.models.contract import FILE_NAME, Contract, default_contract, pixel_limits, read_contract, set_pixel_limits
from boxtune.models.families import FAMILIES, family
from boxtune.models.load import load_model
from boxtune.models.tiny import save_tiny

FULL = Contract(
    model_type="qwen2_5_vl",
    boxes=family("qwen2_5_vl").codec.describe(),
    min_pixels=3136,
    max_pixels=50176,
    labels=("Zelle „rot“", "表", 'a "b" {c}'),
    prompt="Find {labels} 🔍",
    system="You look.",
    box_order="size",
    max_new_tokens=77,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny("qwen2_5_vl", tmp_path_factory.mktemp("tiny") / "model")


def rewritten(path, **changes):
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**fields, **changes}), encoding="utf-8")


def test_round_trip(tmp_path):
    FULL.save(tmp_path)
    assert read_contract(tmp_path) == FULL


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_round_trip(tmp_path, tiny, model_type):
    contract = default_contract(model_type, tiny(model_type)[1])
    contract.save(tmp_path)
    assert read_contract(tmp_path) == contract
    assert contract.family is FAMILIES[model_type]
    assert (contract.min_pixels, contract.max_pixels) == pixel_limits(tiny(model_type)[1])


def test_no_contract(tmp_path):
    assert read_contract(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '"text"', "{}", '{"version": 1}', '{"version": 1, "labels": []}', "\xff"],
    ids=["empty", "cut", "list", "null", "number", "string", "no-version", "no-fields", "few-fields", "latin-1"],
)
def test_broken_file_is_one_line(tmp_path, text):
    (tmp_path / FILE_NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError) as error:
        read_contract(tmp_path)
    message = str(error.value)
    assert FILE_NAME in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": 2}, "version 2.*update boxtune"),
        ({"from_the_future": 1}, "from_the_future"),
        ({"model_type": "llava"}, "Unknown model family 'llava'"),
        ({"boxes": {"space": "relative_1000", "form": "json"}}, "its boxes would be wrong"),
        ({"model_type": "qwen3_vl"}, "its boxes would be wrong"),
    ],
    ids=["later-version", "unknown-field", "unknown-family", "other-convention", "other-family"],
)
def test_contradictions_are_refused(tmp_path, changes, expected):
    FULL.save(tmp_path)
    rewritten(tmp_path / FILE_NAME, **changes)
    with pytest.raises(ModelError, match=expected):
        read_contract(tmp_path)


def with_own_limits(folder):
    (folder / FILE_NAME).unlink(missing_ok=True)
    contract = default_contract("qwen2_5_vl", load_model(str(folder)).processor)
    contract.save(folder)
    return contract


def test_folder_opens_with_its_own_contract(folder):
    contract = with_own_limits(folder)
    loaded = load_model(str(folder))
    assert (loaded.contract, loaded.trained_here) == (contract, True)


@pytest.mark.parametrize("edge", ["shortest_edge", "longest_edge"])
def test_changed_pixel_limits_are_refused(folder, edge):
    """Whichever file of the folder the processor reads its limits from."""
    with_own_limits(folder)
    changed = 0
    originals = {}
    for path in (folder / "processor_config.json", folder / "preprocessor_config.json"):
        if not path.is_file():
            continue
        originals[path] = path.read_text()
        fields = json.loads(originals[path])
        section = fields.get("image_processor", fields)
        section["size"][edge] *= 2
        path.write_text(json.dumps(fields))
        changed += 1
    assert changed
    try:
        with pytest.raises(ModelError, match="boxes would be shifted"):
            load_model(str(folder))
    finally:
        for path, text in originals.items():
            path.write_text(text)


def test_weights_of_another_family_are_refused(folder):
    path = folder / FILE_NAME
    default_contract("qwen3_vl", load_model("tiny:qwen3_vl").processor).save(folder)
    try:
        with pytest.raises(ModelError, match="trained on a qwen3_vl, but its weights are a qwen2_5_vl"):
            load_model(str(folder))
    finally:
        path.unlink()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_pixel_limits_are_set_and_survive_saving(tmp_path, model_type):
    from transformers import AutoProcessor

    from boxtune.models.tiny import tiny_processor

    processor = tiny_processor(model_type, max_pixels=224 * 224)
    set_pixel_limits(processor, 4096, 65536)
    processor.save_pretrained(tmp_path)
    assert pixel_limits(processor) == pixel_limits(AutoProcessor.from_pretrained(tmp_path)) == (4096, 65536)
