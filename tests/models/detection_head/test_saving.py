from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from boxtune.errors import ModelError
from boxtune.models.detection_head.saving import CONFIG_FILE, WEIGHTS_FILE, has_head, load_head, save_head
from models.detection_head.head_scenes import HIDDEN, TEXT, VOCABULARY, random_memory, small_head


@pytest.fixture
def folder(tmp_path):
    save_head(small_head(queries="tokens"), tmp_path / "head")
    return tmp_path / "head"


@pytest.mark.parametrize("queries", ["learned", "tokens"])
@pytest.mark.parametrize("positions", ["learned", "none"])
def test_a_saved_head_is_the_same(tmp_path, queries, positions):
    head, memory = small_head(queries=queries, positions=positions), random_memory([(2, 3)], [4])
    save_head(head, tmp_path)
    torch.manual_seed(5)
    loaded = load_head(tmp_path, TEXT)
    assert loaded.config == head.config
    assert not loaded.training
    assert torch.equal(loaded(memory).states, head(memory).states)


def test_the_embedding_is_not_saved(folder):
    assert not any(VOCABULARY in tensor.shape for tensor in load_file(folder / WEIGHTS_FILE).values())


def test_dtype_is_the_one_asked_for(folder):
    assert next(load_head(folder, TEXT, dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


def test_a_folder_knows_whether_it_holds_a_head(folder, tmp_path):
    assert has_head(folder)
    assert not has_head(tmp_path)
    with pytest.raises(ModelError, match="holds no detection head"):
        load_head(tmp_path, TEXT)


@pytest.mark.parametrize(("hidden_size", "vocab_size"), [(HIDDEN * 2, VOCABULARY), (HIDDEN, VOCABULARY + 1)])
def test_a_head_of_another_model_is_refused(folder, hidden_size, vocab_size):
    with pytest.raises(ModelError, match=f"belongs to a model of width {HIDDEN} with {VOCABULARY} tokens"):
        load_head(folder, SimpleNamespace(hidden_size=hidden_size, vocab_size=vocab_size))


def test_a_head_that_reads_more_layers_than_there_are_is_refused(folder):
    rewrite(folder, language_layers=2)
    deep, shallow = (SimpleNamespace(**vars(TEXT), num_hidden_layers=number) for number in (3, 2))
    assert load_head(folder, deep).config.language_layers == 2
    with pytest.raises(ModelError, match="reads 2 layers of a language model, this one has 2"):
        load_head(folder, shallow)


def test_a_head_of_before_reads_all_layers(folder):
    content = json.loads((folder / CONFIG_FILE).read_text())
    del content["language_layers"]
    (folder / CONFIG_FILE).write_text(json.dumps(content))
    assert load_head(folder, TEXT).config.language_layers is None


def rewrite(folder, **changes):
    content = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2; this boxtune reads version 1"),
        ({"num_queries": 7}, "does not fit detection_head.json"),
        ({"queries": "learned"}, "does not fit detection_head.json"),
        ({"width": 15}, "multiple of 4"),
        ({"colour": "red"}, "cannot be read .*colour"),
        ({"num_heads": "two"}, "cannot be read"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_head(folder, TEXT)


@pytest.mark.parametrize("text", ["", "[1]", '{"version": 1}', "{"])
def test_a_broken_configuration_is_refused(folder, text):
    (folder / CONFIG_FILE).write_text(text)
    with pytest.raises(ModelError, match="cannot be read"):
        load_head(folder, TEXT)


def test_lost_cut_and_foreign_weights_are_refused(folder):
    path = folder / WEIGHTS_FILE
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}  # not a view of the file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be read"):
        load_head(folder, TEXT)
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="does not fit"):
        load_head(folder, TEXT)
    save_file({name: tensor for name, tensor in weights.items() if name != "kinds"}, path)
    with pytest.raises(ModelError, match="kinds"):
        load_head(folder, TEXT)
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_head(folder, TEXT)
