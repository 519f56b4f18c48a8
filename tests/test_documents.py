"""JSON and YAML of strangers: read as data, within limits, and refused in one line."""

from __future__ import annotations

import contextlib
import math
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from boxtune.documents import DocumentError, RefusedError, parse_json, parse_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            LAUGHS,
            r"\*a in line 2 stands for what &a names\. Anchors and aliases are not taken: .* Write the value out\.",
        ),
        (MERGES, r"\*a in line 2 .* not taken"),
        ("a: &a [*a]", r"\*a in line 1 .* not taken"),
        ("a: &a {b: *a}", r"\*a in line 1 .* not taken"),
        ("[" * 100_000, "without end"),
        ("{a: " * 50_000, "without end"),
        ("a: 1\nb: 2\na: 3", "a key stands twice"),
        ("{x: {a: 1, a: 1}}", "a key stands twice"),
        ("? [1]\n: 2", "unhashable key"),
        ("a: " + "9" * 5000, "a number without end"),
        ("a: 0x" + "f" * 5000, "a number without end"),
        ("a: " + "9:" * 5000 + "9", "a number without end"),
        ("a: !!bool maybe", "maybe"),
        ("a: !!int abc", "abc"),
        ("a: !!timestamp now", "constructor"),
        ("a: !!set {b}", "constructor"),
        ("a: !!omap [b: 1]", "constructor"),
        ("a: !!binary aGk=", "constructor"),
        ("a: !!python/object/apply:os.system [ls]", "constructor"),
        ("a: !own b", "constructor"),
        ("a: [", r"^while parsing .*\(line 1, column 5\)$"),
        ("a\x00", "not allowed"),
        (b"\xff\xfe\xff", "codec"),
    ],
)
def test_yaml_that_no_honest_file_holds(text, said):
    begin = time.thread_time()
    with pytest.raises(DocumentError, match=said) as caught:
        parse_yaml(text)
    assert time.thread_time() - begin < 5
    assert "\n" not in str(caught.value)


def test_yaml_as_people_write_it():
    text = "# words\na: 1\nb: [x, 2.5, yes, ~]\nc: {d: 'e', 1: f}\ng: 2020-01-01\nh: &unused text\n<<: {i: 1}\n"
    assert parse_yaml(b"\xef\xbb\xbf" + text.encode()) == {
        "a": 1,
        "b": ["x", 2.5, True, None],
        "c": {"d": "e", 1: "f"},
        "g": "2020-01-01",
        "h": "text",
        "i": 1,
    }
    assert parse_yaml("") is None


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50)
@given(PLAIN)
def test_what_yaml_writes_is_read_back(content):
    text = yaml.safe_dump(content, allow_unicode=True)
    if "&id" not in text and "!!" not in text:  # the same list twice becomes an alias, odd signs a tag
        assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "without end"),
        ('{"a":' * 100_000, "without end"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice"),
        ('[{"x": {"b": 1, "b": 1}}]', "the key 'b' stands twice"),
        ("9" * 5000, "digits"),
        ("{", "line 1"),
        ("", "line 1"),
        (b"\xff", "codec"),
        (b"\x80\x04\x95", "codec"),
        ("{}{}", "Extra data"),
    ],
)
def test_json_that_no_honest_file_holds(text, said):
    with pytest.raises(DocumentError, match=said) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_among_very_many_is_found_at_once():
    begin = time.thread_time()
    with pytest.raises(RefusedError, match="the key 'k99999' stands twice"):
        parse_json("{" + ",".join(f'"k{number}":1' for number in range(100_000)) + ',"k99999":2}')
    assert time.thread_time() - begin < 5


def test_numbers_without_end_are_for_the_reader_to_refuse():
    assert parse_json(b'\xef\xbb\xbf[1e999, -1e999, "\\ud800"]') == [math.inf, -math.inf, "\ud800"]
    assert math.isnan(parse_json("NaN"))


@given(st.binary() | st.text())
def test_no_text_raises_anything_else(text):
    for parse in (parse_json, parse_yaml):
        with contextlib.suppress(DocumentError):
            parse(text)
