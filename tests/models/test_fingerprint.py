"""Fingerprints of weights: all bytes, or samples of large files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boxtune.errors import ModelError
from boxtune.models.fingerprint import sampled_fingerprint, weights_fingerprint

MIB = 2**20


def write(path: Path, size: int, *changed: int) -> Path:
    """Zeros, but at these places."""
    with path.open("wb") as file:
        file.truncate(size)
        for place in changed:
            file.seek(place)
            file.write(b"x")
    return path


@pytest.mark.parametrize("fingerprint", [weights_fingerprint, sampled_fingerprint])
def test_any_byte_of_a_small_file_counts(tmp_path, fingerprint):
    found = set()
    for changed in ((), (0,), (MIB // 2 + 1,), (MIB - 1,)):
        write(tmp_path / "model.safetensors", MIB, *changed)
        found.add(fingerprint(tmp_path))
        assert fingerprint(tmp_path) in found
    assert len(found) == 4


def test_of_a_large_file_samples_count(tmp_path):
    size = 100 * MIB
    before = sampled_fingerprint(write(tmp_path / "model.safetensors", size).parent)
    for changed in ([0], [size - 1], range(0, size, 1000)):
        assert sampled_fingerprint(write(tmp_path / "model.safetensors", size, *changed).parent) != before
    assert sampled_fingerprint(write(tmp_path / "model.safetensors", size + 1).parent) != before
    assert sampled_fingerprint(write(tmp_path / "model.safetensors", size).parent) == before


def test_samples_are_of_the_files_that_are_loaded(tmp_path):
    assert sampled_fingerprint(tmp_path) is None
    for name in ("model-1.safetensors", "model-2.safetensors", "detection_head.safetensors"):
        write(tmp_path / name, 10)
    assert sampled_fingerprint(tmp_path) is None
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    before = sampled_fingerprint(tmp_path)
    write(tmp_path / "detection_head.safetensors", 10, 1)
    assert sampled_fingerprint(tmp_path) == before
    write(tmp_path / "model-2.safetensors", 10, 1)
    assert sampled_fingerprint(tmp_path) != before


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(ModelError, match="holds no weights"):
        weights_fingerprint(tmp_path)
