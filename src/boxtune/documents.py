"""JSON and YAML that strangers have written: read as data, and refused where no honest file would be so.

A document with a key twice is refused: parsers take the last and forget the first without a word. YAML's aliases are
refused, since ten lines of them unfold to gigabytes; so are its tags for anything but text, numbers, lists and mappings
(`!!python/…` would run code in a loader that is not safe).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable
from typing import Any, Final

import yaml

_LONGEST_NUMBER: Final = 400  # characters; a number of millions takes long to make, and cannot be shown
_TAGS: Final = ("null", "bool", "int", "float", "str", "seq", "map")
_TOO_DEEP: Final = "lists in lists, or objects in objects, without end"


class DocumentError(ValueError):
    """A text is no JSON or YAML that is read here; says why, for the reader of the file to say where."""


class RefusedError(DocumentError):
    """It is JSON or YAML, but has something that is not taken here."""


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says; bytes are UTF-8, with a byte order mark or without.

    Numbers without end (`1e999`) and `NaN` come out as such: it is for the reader to say what numbers it takes.

    Raises:
        DocumentError: no JSON, no UTF-8, or nested too deeply.
        RefusedError: a key twice in an object.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_with_each_key_once)
    except RecursionError:
        raise DocumentError(_TOO_DEEP) from None
    except DocumentError:
        raise
    except ValueError as error:  # UnicodeDecodeError is one, and so is what whole numbers of 5000 digits end in
        raise DocumentError(str(error)) from None


def parse_yaml(text: str | bytes) -> Any:
    """What a YAML text says: text, numbers, true, false and null, in lists and mappings. Dates stay text.

    Raises:
        DocumentError: no YAML, no UTF-8, or nested too deeply.
        RefusedError: an alias, a tag, a key twice, or an endless number.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return yaml.load(text, Loader=_DataLoader)  # nosec B506
    except RecursionError:
        raise DocumentError(_TOO_DEEP) from None
    except yaml.constructor.ConstructorError as error:
        raise RefusedError(_told(error)) from None
    except yaml.MarkedYAMLError as error:
        raise DocumentError(_told(error)) from None
    except DocumentError:
        raise
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError) as error:
        # the last three are what PyYAML's constructors end in on `!!bool maybe`, `!!timestamp x` and the like
        raise DocumentError(" ".join(str(error).split())) from None


def _told(error: yaml.MarkedYAMLError) -> str:
    """What PyYAML says, and where, without its drawing of the line."""
    mark = error.problem_mark or error.context_mark
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return " ".join(said.split()) + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark else "")


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        times = Counter(key for key, _ in pairs)  # counted in one pass: an object may have millions of keys
        raise RefusedError(f"the key {next(key for key in times if times[key] > 1)[:80]!r} stands twice")
    return content


class _DataLoader(yaml.SafeLoader):
    """PyYAML's safe loader without what a file of settings or of class names has no use for."""

    # PyYAML's own names and shapes
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _TAGS
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]
            raise RefusedError(
                f"*{alias.anchor[:80]} in line {alias.start_mark.line + 1} stands for what &{alias.anchor[:80]} names. "
                "Anchors and aliases are not taken: a few lines of them can unfold to gigabytes. Write the value out."
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        content = super().construct_mapping(node, deep)
        if len(content) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice", node.start_mark)
        return content

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if node.tag.endswith((":int", ":float")) and len(str(value)) > _LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(None, None, "a number without end", node.start_mark)
        return value
