"""Licences in the form of the hub, and nothing that could write other keys of a card."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCardData

from boxtune.errors import ConfigError
from boxtune.publishing.card import model_card
from boxtune.publishing.licence import Licence, licence_of

KNOWN = [
    "apache-2.0",
    "mit",
    "cc-by-nc-sa-4.0",
    "gpl-3.0",
    "bsd-3-clause",
    "bigcode-openrail-m",
    "llama3.1",
    "c-uda",
    "0bsd",
]


@pytest.mark.parametrize("identifier", KNOWN)
def test_the_forms_of_the_hub(identifier):
    assert licence_of(identifier, None, None).front == {"license": identifier}


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        " ",
        "mit ",
        "mit\n",
        "mit\nbase_model: someone/else",
        "license: mit",
        "<b>mit</b>",
        "[mit](https://example.org)",
        "`mit`",
        "a--b",
        "-mit",
        "mit-",
        "ｍｉｔ",
        "m\x00it",
        "a" * 65,
    ],
)
def test_what_is_no_identifier(identifier):
    with pytest.raises(ConfigError, match="no licence as the hub writes them") as caught:
        licence_of(identifier, None, None)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="--license-name"):
        licence_of("other", identifier, None)


def test_capitals_are_pointed_out():
    with pytest.raises(ConfigError, match=r"Did you mean apache-2\.0\?"):
        licence_of("Apache-2.0", None, None)


def test_another_licence_has_a_name(full_run):
    licence = licence_of("other", "my-licence-1.0", "https://example.org/licence?v=1")
    front = yaml.safe_load(model_card(full_run, "me/cells", licence).split("---")[1])
    theirs = ModelCardData(
        license="other", license_name="my-licence-1.0", license_link="https://example.org/licence?v=1"
    )
    assert {key: value for key, value in front.items() if key.startswith("license")} == theirs.to_dict()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("other", None, None), "--license-name my-licence"),
        (("other", None, "https://example.org"), "--license-name my-licence"),
        (("mit", "mine", None), "leave them out with mit"),
        (("mit", None, "https://example.org"), "leave them out with mit"),
        ((None, "mine", None), "--license other: add it"),
        ((None, None, "https://example.org"), "--license other: add it"),
        (("other", "mine", "javascript:alert(1)"), "no address"),
        (("other", "mine", "https://example.org/a b"), "no address"),
        (("other", "mine", "https://example.org\nx: y"), "no address"),
        (("other", "mine", "LICENSE"), "no address"),
    ],
)
def test_options_that_do_not_go_together(options, said):
    with pytest.raises(ConfigError, match=said):
        licence_of(*options)


def test_no_licence():
    assert licence_of(None, None, None) is None
    with pytest.raises(ConfigError):
        Licence("Other")
