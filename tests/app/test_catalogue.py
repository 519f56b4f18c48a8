"""What can be chosen, and that nothing else can."""

from __future__ import annotations

import pytest

from app.conftest import BROKEN, make_run
from boxtune.app.catalogue import Catalogue, open_catalogue
from boxtune.errors import ConfigError, ModelError


def test_models_that_were_named_come_first_then_those_of_the_runs(handlers):
    runs = handlers.catalogue.runs
    assert list(handlers.catalogue.choices()) == [
        "tiny:qwen2_vl",
        *(str(runs / name) for name in (BROKEN, "linked", "one")),
    ]


def test_a_run_that_ends_later_is_found(tmp_path):
    catalogue = Catalogue(("embedded",), tmp_path)
    assert list(catalogue.choices()) == ["embedded"]
    make_run(tmp_path / "a" / "model", "x")
    assert list(catalogue.choices()) == ["embedded", str(tmp_path / "a" / "model")]
    assert list(catalogue.reports()) == [str(tmp_path / "a" / "model")]


def test_links_out_of_the_runs_are_not_followed(handlers):
    assert list(handlers.catalogue.reports()) == [str(handlers.catalogue.runs / "one")]


def test_a_head_brings_its_decoders(tmp_path):
    run = make_run(tmp_path / "headed")
    (run / "detection_head.json").write_text("{}")
    assert Catalogue((str(run),), None).choices()[str(run)].decoders == ("text", "head", "both")
    assert Catalogue(("embedded",), None).choices()["embedded"].decoders == ("text", "head", "both")
    (run / "detection_head.json").unlink()
    assert Catalogue((str(run),), None).choices()[str(run)].decoders == ("text",)


def test_a_head_that_was_trained_alone_is_a_model(tmp_path):
    run = make_run(tmp_path / "headed")
    (run / "config.json").unlink(missing_ok=True)
    assert str(run) not in Catalogue((), tmp_path).choices()
    (run / "detection_head.json").write_text("{}")
    assert Catalogue((), tmp_path).choices()[str(run)].decoders == ("text", "head", "both")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match="check --runs"):
        open_catalogue(["embedded"], tmp_path / "nothing")
    with pytest.raises(ModelError, match="No model at"):
        open_catalogue([str(tmp_path / "nothing")], None)
    with pytest.raises(ModelError, match="name one with --model"):
        open_catalogue([], tmp_path)
