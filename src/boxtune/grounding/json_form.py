"""The text form of Qwen2.5-VL and Qwen3-VL: a JSON list.

    [{"bbox_2d": [x1, y1, x2, y2], "label": "label"}, …]

on one line; `[]` where there is nothing. Labels are escaped as JSON strings with unicode kept, after `<|` was written
`< |` (see `special_tokens.neutralise`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from boxtune.grounding.elements import BoxSpan, Element
from boxtune.grounding.special_tokens import neutralise

_EMPTY = re.compile(r"\[[ \t\n\r]*+\]")
# "~" stands for white space, which JSON allows between any two lexemes.
_ELEMENT = re.compile(
    r'\{~"bbox_2d"~:~\[~NUMBER~,~NUMBER~,~NUMBER~,~NUMBER~\]~,~"label"~:~"STRING"~\}~'.replace(
        "NUMBER", r"(0|[1-9][0-9]{0,5}+)"
    )
    .replace("STRING", r'([^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*)')
    .replace("~", r"[ \t\n\r]*+")
)
_BEGIN = re.compile(r"\[[ \t\n\r]*+")
_COMMA = re.compile(r",[ \t\n\r]*+")


@dataclass(frozen=True)
class JsonForm:
    """Answers made of a JSON list of objects."""

    name: ClassVar[str] = "json"
    empty_answer: ClassVar[str] = "[]"
    # The wording of the ODinW evaluation in the Qwen3-VL repository.
    default_prompt: ClassVar[str] = (
        "Locate every instance that belongs to the following categories: {labels}. "
        "Report bbox coordinates in JSON format."
    )

    def write_label(self, label: str) -> str:
        """A label as it stands in answers and prompts: a JSON string with its quotes."""
        return json.dumps(neutralise(label), ensure_ascii=False)

    def write(self, labels: Sequence[str], boxes: Sequence[Sequence[int]]) -> str:
        """An answer with these labels and `[N][4]` boxes in units of the text."""
        parts = (
            f'{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}], "label": {self.write_label(label)}}}'
            for label, (x1, y1, x2, y2) in zip(labels, boxes, strict=True)
        )
        return f"[{', '.join(parts)}]"

    def read_exact(self, text: str) -> list[Element] | None:
        """The elements of a text that keeps to the grammar, else None. JSON's white space is allowed everywhere."""
        start = len(text) - len(text.lstrip())
        end = len(text.rstrip())
        if _EMPTY.fullmatch(text, start, end):
            return []
        separator = _BEGIN.match(text, start, end)
        elements: list[Element] = []
        position = start
        while separator and (match := _ELEMENT.match(text, separator.end(), end)):
            elements.append(_element(match))
            position = match.end()
            separator = _COMMA.match(text, position, end)
        closed = elements and separator is None and text[position:end] == "]"
        return elements if closed else None

    def may_end(self, piece: str) -> bool:
        """Whether a piece of an answer could be its end: the last object or the list closes in it."""
        return "]" in piece or piece.endswith("}")

    def reopened(self, text: str, piece: str) -> tuple[str, str] | None:
        """See `TextForm.reopened`: instead of the closing bracket a comma, or the first object of an empty list."""
        before = piece.partition("]")[0]
        elements = self.read_exact(text + before + "]")
        if elements is None:
            return None
        return text + before + "]", before + (", " if elements else "") + '{"bbox_2d": ['


def _element(match: re.Match[str]) -> Element:
    x1, y1, x2, y2 = (int(match[i]) for i in range(1, 5))
    coordinates = (match.span(1), match.span(2), match.span(3), match.span(4))
    brace = match.start() + len(match[0].rstrip())
    label: str = json.loads(f'"{match[5]}"')
    return Element(label, (x1, y1, x2, y2), BoxSpan((match.start(), brace), match.span(5), coordinates))
