"""The text form of Qwen2-VL: special tokens around label and corners.

    <|object_ref_start|>label<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>

repeated without separators; the word `none` where there is nothing. Labels stand as they are (newlines and brackets
included), except that `<|` is written `< |` (see `special_tokens.neutralise`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from boxtune.grounding.elements import BoxSpan, Element
from boxtune.grounding.special_tokens import BOX_END, BOX_START, REF_END, REF_START, neutralise

_INTEGER = r"(0|[1-9][0-9]{0,5}+)"
_ELEMENT = re.compile(
    re.escape(REF_START)
    + r"([^<]*+(?:<(?!\|)[^<]*+)*)"
    + re.escape(REF_END + BOX_START)
    + rf"\({_INTEGER},{_INTEGER}\),\({_INTEGER},{_INTEGER}\)"
    + re.escape(BOX_END)
)


@dataclass(frozen=True)
class TokenForm:
    """Answers made of special tokens."""

    name: ClassVar[str] = "tokens"
    empty_answer: ClassVar[str] = "none"
    # Qwen2-VL was taught to ground a phrase between reference tokens; its cookbooks ask "Detect …" or "Find …".
    default_prompt: ClassVar[str] = "Detect all instances of: {labels}."

    def write_label(self, label: str) -> str:
        """A label as it stands in answers and prompts."""
        return REF_START + neutralise(label) + REF_END

    def write(self, labels: Sequence[str], boxes: Sequence[Sequence[int]]) -> str:
        """An answer with these labels and `[N][4]` boxes in units of the text."""
        parts = (
            f"{self.write_label(label)}{BOX_START}({x1},{y1}),({x2},{y2}){BOX_END}"
            for label, (x1, y1, x2, y2) in zip(labels, boxes, strict=True)
        )
        return "".join(parts) or self.empty_answer

    def read_exact(self, text: str) -> list[Element] | None:
        """The elements of a text that keeps to the grammar, else None. White space around the answer is allowed."""
        position = len(text) - len(text.lstrip())
        end = len(text.rstrip())
        if text[position:end] == self.empty_answer:
            return []
        elements = []
        while match := _ELEMENT.match(text, position, end):
            x1, y1, x2, y2 = (int(match[i]) for i in range(2, 6))
            coordinates = (match.span(2), match.span(3), match.span(4), match.span(5))
            elements.append(Element(match[1], (x1, y1, x2, y2), BoxSpan(match.span(), match.span(1), coordinates)))
            position = match.end()
        return elements if elements and position == end else None

    def may_end(self, piece: str) -> bool:
        """Whether a piece of an answer could be its end; "" stands for the token that ends the turn."""
        return not piece or self.empty_answer.startswith(piece)

    def reopened(self, text: str, piece: str) -> tuple[str, str] | None:
        """See `TextForm.reopened`: the turn ends after an element, or the word for nothing begins."""
        answer = text if not piece else self.empty_answer if not text else ""
        return (answer, REF_START) if answer and self.read_exact(answer) is not None else None
