"""Some seconds of what `make fuzz` does for as long as one likes: only errors of boxtune's may come out of a reader."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzz.targets import PART, TARGETS, clean_up

EXAMPLES = {"parquet": 15, "picture": 300, "answer": 400, "voc": 150}
slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@pytest.fixture(scope="module", autouse=True)
def remove_what_was_written():
    yield
    clean_up()


@st.composite
def spoiled(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A good file with some bytes cut, doubled, changed or put in."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = min(len(data), at + draw(st.integers(0, 12)))
        put = draw(
            st.binary(max_size=6) | st.sampled_from([b"", data[at:until] * 3, b"0", b"-1e999", b"\x00", b"\xff"])
        )
        data = data[:at] + put + data[until:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_good_files(name):
    for seed in TARGETS[name].seeds:
        assert TARGETS[name].check(seed), seed


@pytest.mark.parametrize("name", TARGETS)
def test_spoiled_files(name):
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES.get(name, 100), suppress_health_check=slow, database=None, derandomize=True)
    @given(spoiled(target.seeds) | st.binary(max_size=60))
    def check(data: bytes) -> None:
        target.check(data)

    check()


NUMBERS = st.sampled_from([0, 1, -1, 2, 0.5, 1e308, 10**400, float("inf"), float("nan"), True, None, "1", [], {}])
WORDS = st.sampled_from(["a.png", "cat", "", "../a.png", "\ud800", "\x00", "<|im_end|>", "real", "qwen2_vl", "LORA"])
KEYS = sorted(
    {key for name in ("coco", "jsonl", "model_folder") for seed in TARGETS[name].seeds for key in json.loads(seed)}
    | {
        "id",
        "file_name",
        "image_id",
        "category_id",
        "bbox",
        "name",
        "supercategory",
        "iscrowd",
        "bbox_xyxy_px",
        "label",
    }
    | {"ref", "bbox_type", "segmentation", "fingerprint", "hidden_size", "text_config", "score"}
)
TREES = st.recursive(
    NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)


@st.composite
def regrown(draw: st.DrawFn, seed: bytes) -> bytes:
    """A good JSON file in which some branches are others."""
    content = json.loads(seed)
    for _ in range(draw(st.integers(1, 3))):
        branch = content
        for _ in range(draw(st.integers(0, 4))):
            children = list(branch.values()) if isinstance(branch, dict) else branch
            deeper = [child for child in children if isinstance(child, dict | list) and child]
            if not deeper:
                break
            branch = draw(st.sampled_from(deeper))
        keys = list(branch) if isinstance(branch, dict) else range(len(branch))
        branch[draw(st.sampled_from(keys))] = draw(TREES)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, number) for name in ("coco", "jsonl", "model_folder") for number in range(len(TARGETS[name].seeds))],
)
def test_json_with_other_branches(name, number):
    target = TARGETS[name]

    @settings(max_examples=80, suppress_health_check=slow, database=None, derandomize=True)
    @given(regrown(target.seeds[number]))
    def check(data: bytes) -> None:
        target.check(data)

    check()


@settings(max_examples=60, suppress_health_check=slow, database=None, derandomize=True)
@given(regrown(TARGETS["coco"].seeds[0]), TREES)
@example(b"{}", [])
def test_scored_files_with_other_branches(truth, results):
    with contextlib.suppress(UnicodeEncodeError):
        TARGETS["scored_files"].check(truth + PART + json.dumps(results).encode())
