"""One element of an answer as it was read: a label, four numbers, and where they stand in the text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

Span = tuple[int, int]
FourSpans = tuple[Span, Span, Span, Span]
FourNumbers = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxSpan:
    """Where one box stands in an answer, as character ranges `[start, end)` of the text.

    Attributes:
        whole: the entire element, from its opening special token or brace through the closing one. Boxes that share
            one element (several boxes after one label) share this range.
        label: the label as written, without quotes, escapes not resolved; an empty range where it is missing.
        coordinates: the numbers of x_min, y_min, x_max, y_max: digits, sign and fraction, without quotes.
    """

    whole: Span
    label: Span
    coordinates: FourSpans


@dataclass(frozen=True)
class Element:
    """A box as read, before labels, corners and bounds are checked.

    Attributes:
        label: escapes resolved; None where the text gives no label.
        numbers: x1, y1, x2, y2 in units of the text; may be infinite, never NaN.
        span: where it stands.
        label_is_guess: the label is merely the text that stood in front of the box.
    """

    label: str | None
    numbers: FourNumbers
    span: BoxSpan
    label_is_guess: bool = False


class Notes:
    """What had to be mended, in words, with counts."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, phrase: str) -> None:
        """Count one more of a phrase; `#` in it stands for the count."""
        self._counts[phrase] += 1

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        parts = [phrase.replace("#", str(count)) for phrase, count in self._counts.items()]
        shown = 8  # a reason is read by people, and a hostile text can hold thousands of faults
        return "; ".join(parts[:shown] + ([f"and {len(parts) - shown} more"] if len(parts) > shown else []))


def quoted(text: str, limit: int = 40) -> str:
    """A piece of the model's text for a reason: on one line, shortened, without the `#` that notes count with."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…").replace("#", "＃")
