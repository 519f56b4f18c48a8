from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from boxtune.errors import ConfigError
from boxtune.models.detection_head.config import fitted_to
from boxtune.models.detection_head.head import DetectionHead
from models.detection_head.head_scenes import END, small_config


@pytest.mark.parametrize(
    ("hidden_size", "width", "heads"), [(64, 64, 2), (256, 256, 8), (1536, 512, 16), (3584, 512, 16)]
)
def test_sizes_follow_the_language_model(hidden_size, width, heads):
    config = fitted_to(SimpleNamespace(hidden_size=hidden_size, vocab_size=100), END)
    assert (config.width, config.num_heads, config.ffn_width) == (width, heads, 4 * width)
    assert (config.hidden_size, config.num_queries, config.decoder_layers, config.caption_layers) == (
        hidden_size,
        100,
        2,
        4,
    )


def test_a_choice_that_is_none_is_fitted():
    assert small_config(ffn_width=None, num_heads=None) == small_config(ffn_width=64, num_heads=1)


def test_numbers_of_layers_and_ratio_are_those_asked_for():
    head = DetectionHead(small_config(decoder_layers=3, caption_layers=2, adapter_ratio=4))
    assert len(head.decoder.layers) == 3
    assert len(head.captioner.layers) == 2
    assert head.vision_intake.adapter.down.out_features == 6


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"width": 18}, "multiple of 4"),
        ({"num_heads": 3}, "multiple of 4 and of num_heads"),
        ({"num_queries": 0}, "num_queries is 0, at least 1"),
        ({"decoder_layers": 0}, "decoder_layers is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"language_layers": -1}, "language_layers is -1, at least 0"),
        ({"queries": "token"}, "Did you mean 'tokens'"),
        ({"positions": "sinus"}, "unknown positions 'sinus'"),
    ],
)
def test_what_does_not_fit_is_refused(choices, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**choices)


@pytest.mark.parametrize(("layers", "fits"), [(None, True), (0, True), (5, True), (6, False)])
def test_a_head_reads_layers_that_are_there(layers, fits):
    text = SimpleNamespace(hidden_size=32, vocab_size=100, num_hidden_layers=6)
    with nullcontext() if fits else pytest.raises(ConfigError, match=r"language_layers is 6.*has 6 layers: give fewer"):
        assert fitted_to(text, END, language_layers=layers).language_layers == layers


def test_an_end_token_outside_the_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="end_token_id 100"):
        fitted_to(SimpleNamespace(hidden_size=32, vocab_size=100), 100)
