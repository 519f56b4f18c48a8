"""What every box goes through after it was read, whatever its form: label, corners, bounds, area, repetition."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from boxtune.grounding.elements import BoxSpan, Element, FourNumbers, FourSpans, Notes, Span, quoted
from boxtune.grounding.special_tokens import neutralise


@dataclass
class Mended:
    """The boxes that can be used, in the order of the text: equally long lists, boxes in units of the text."""

    labels: list[str] = field(default_factory=list)
    boxes: list[FourNumbers] = field(default_factory=list)
    spans: list[BoxSpan] = field(default_factory=list)


def mend(elements: Iterable[Element], bounds: tuple[int, int], labels: Sequence[str] | None, notes: Notes) -> Mended:
    """Make elements usable or drop them; each intervention is added to `notes`.

    Args:
        elements: boxes as read.
        bounds: the largest x and the largest y; numbers outside are clamped.
        labels: the known labels; None accepts any.
        notes: receives what was done, in words.
    """
    known = None if labels is None else KnownLabels(labels)
    mended = Mended()
    seen: set[tuple[str, FourNumbers]] = set()
    for element in elements:
        box, coordinates = _in_order(element.numbers, element.span.coordinates, notes)
        box = _in_bounds(box, bounds, notes)
        label = _resolved(element, known, notes)
        if label is None:
            continue
        if box[2] <= box[0] or box[3] <= box[1]:
            notes.add("dropped # without area")
        elif (label, box) in seen:
            notes.add("dropped # repeated")
        else:
            seen.add((label, box))
            mended.labels.append(label)
            mended.boxes.append(box)
            mended.spans.append(BoxSpan(element.span.whole, _label_span(element, label), coordinates))
    return mended


def _in_order(box: FourNumbers, spans: FourSpans, notes: Notes) -> tuple[FourNumbers, FourSpans]:
    """Corners sorted, and the places of the numbers with them."""
    x1, y1, x2, y2 = box
    if x1 <= x2 and y1 <= y2:
        return box, spans
    notes.add("corners swapped in #")
    a, b, c, d = spans
    if x1 > x2:
        x1, x2, a, c = x2, x1, c, a
    if y1 > y2:
        y1, y2, b, d = y2, y1, d, b
    return (x1, y1, x2, y2), (a, b, c, d)


def _in_bounds(box: FourNumbers, bounds: tuple[int, int], notes: Notes) -> FourNumbers:
    x1, y1, x2, y2 = box
    max_x, max_y = bounds
    if x1 >= 0 and y1 >= 0 and x2 <= max_x and y2 <= max_y:
        return box
    notes.add("numbers out of range in #")
    return min(max(x1, 0), max_x), min(max(y1, 0), max_y), min(max(x2, 0), max_x), min(max(y2, 0), max_y)


def _resolved(element: Element, known: KnownLabels | None, notes: Notes) -> str | None:
    """The label that an element gets; None drops it."""
    text = element.label
    if known is None:
        if text is None:
            notes.add("dropped # without a label")
        return text
    found = None if text is None else known.find(text)
    if found is not None:
        if neutralise(found) != text:
            notes.add(f"label {quoted(text or '')} read as {quoted(found)}")
        return found
    if text is not None and text.strip() and not element.label_is_guess:
        notes.add(f"dropped # with unknown label {quoted(text)}")
    elif known.only is None:
        notes.add("dropped # without a label")
    else:
        notes.add(f"missing label taken as {quoted(known.only)} in #")
        return known.only
    return None


def _label_span(element: Element, label: str) -> Span:
    """Where the label is written; an empty range where a guess was wrong and the only known label was taken."""
    start, end = element.span.label
    wrong_guess = element.label_is_guess and element.label is not None and _singular(element.label) != _singular(label)
    return (end, end) if wrong_guess else (start, end)


class KnownLabels:
    """Finds the label that a model meant: exactly, else but for case and white space, else but for a plural.

    A spelling that could mean two of the labels means none.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        unique = list(dict.fromkeys(labels))
        self.only = unique[0] if len(unique) == 1 else None
        self._exact = {neutralise(label): label for label in reversed(unique)} | {label: label for label in unique}
        self._folded = _unambiguous((_folded(label), label) for label in unique)
        self._singular = _unambiguous((_singular(label), label) for label in unique)

    def find(self, text: str) -> str | None:
        """The known label that `text` stands for, or None."""
        for table, key in ((self._exact, text), (self._folded, _folded(text)), (self._singular, _singular(text))):
            if key in table:
                return table[key]
        return None


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    table: dict[str, str | None] = {}
    for key, label in pairs:
        table[key] = None if key in table else label
    return {key: label for key, label in table.items() if label is not None}


def _folded(label: str) -> str:
    """Case, white space, `_` and `-` between words, and marks around the label do not count."""
    bare = neutralise(label).casefold().strip(" \t\n.,:;\"'`")
    return " ".join(re.sub(r"[_\-]", " ", bare).split())


def _singular(label: str) -> str:
    word = _folded(label)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word
