"""Boxes ⇄ text: a coordinate space and a text form together are the convention of a model family."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

from boxtune.detections import Detections
from boxtune.errors import ConfigError, nearest
from boxtune.grounding.elements import BoxSpan, Element, Notes
from boxtune.grounding.json_form import JsonForm
from boxtune.grounding.repair import mend
from boxtune.grounding.salvage import Salvage, salvage
from boxtune.grounding.spaces import CoordinateSpace, InputPixels, Relative1000, Size
from boxtune.grounding.special_tokens import END_TOKENS
from boxtune.grounding.token_form import TokenForm

__all__ = ["BoxSpan", "Codec", "DecodeResult", "Status", "TextForm", "is_readable"]

_T = TypeVar("_T")
Status = Literal["ok", "repaired", "malformed"]


def is_readable(status: Status) -> bool:
    """Whether an answer of this status could be read, as it was or after mending."""
    return status != "malformed"


class TextForm(Protocol):
    """How labels and whole numbers are written, and the grammar that reads them back."""

    name: ClassVar[str]
    empty_answer: ClassVar[str]
    default_prompt: ClassVar[str]

    def write_label(self, label: str) -> str:
        """A label as it stands in answers and prompts."""
        ...

    def write(self, labels: Sequence[str], boxes: Sequence[Sequence[int]]) -> str:
        """An answer with these labels and `[N][4]` boxes in units of the text."""
        ...

    def read_exact(self, text: str) -> list[Element] | None:
        """The elements of a text that keeps to the grammar, else None."""
        ...

    def may_end(self, piece: str) -> bool:
        """Whether a piece of an answer could be its end; "" stands for the token that ends the turn."""
        ...

    def reopened(self, text: str, piece: str) -> tuple[str, str] | None:
        """How an answer goes on with one more box where it would end.

        Args:
            text: the answer so far.
            piece: what the model would write next, and `may_end`.

        Returns:
            The answer that would end here, and what is written instead of `piece`, as far as it is certain. None where
            no answer that keeps to the grammar ends in `piece`.
        """
        ...


@dataclass(frozen=True)
class DecodeResult:
    """What a text says.

    Attributes:
        status: `ok`: exactly the grammar, numbers in bounds, corners in order, nothing twice, labels known.
            `repaired`: usable after mending. `malformed`: nothing usable, and no way of saying that nothing is there.
        detections: boxes in pixels of the upright image, without scores; empty when malformed.
        reason: what was mended or is wrong, in words; "" when ok.
        spans: where each detection stands in the text, in the same order.
    """

    status: Status
    detections: Detections
    reason: str = ""
    spans: tuple[BoxSpan, ...] = ()

    @property
    def readable(self) -> bool:
        """As it was, or after mending."""
        return is_readable(self.status)


@dataclass(frozen=True)
class Codec:
    """The convention of a family, e.g. `Codec(Relative1000(), JsonForm())`."""

    space: CoordinateSpace
    form: TextForm

    def encode(self, detections: Detections, image_hw: Size, input_hw: Size) -> str:
        """The answer that a model should give; `decode` reads it back with the status ok.

        Boxes are written in the order given. Boxes of one label that fall on the same numbers are written once.

        Args:
            detections: boxes in pixels of the upright image.
            image_hw: `(height, width)` of the upright image.
            input_hw: `(height, width)` of the image that the model sees.
        """
        units = self.space.to_text_units(detections.xyxy, image_hw, input_hw).tolist()
        unique = dict.fromkeys((label, tuple(box)) for label, box in zip(detections.labels, units, strict=True))
        return self.form.write([label for label, _ in unique], [box for _, box in unique])

    def decode(self, text: str, image_hw: Size, input_hw: Size, labels: Sequence[str] | None = None) -> DecodeResult:
        """Read a model's answer; no text raises an error.

        Args:
            text: the answer, special tokens included.
            image_hw: `(height, width)` of the upright image.
            input_hw: `(height, width)` of the image that the model saw.
            labels: the known labels; others are matched to them or dropped. None accepts any label.
        """
        notes = Notes()
        elements = self.form.read_exact(text)
        exact = elements is not None
        cut = False
        if elements is None:
            answer = _without_end_tokens(text, notes)
            if not answer.strip():
                return DecodeResult("malformed", Detections.empty(), "empty answer")
            found = salvage(answer, notes)
            if says_nothing := _says_nothing(answer, found, self.form):
                return DecodeResult("repaired", Detections.empty(), says_nothing)
            _note_surroundings(answer, found, self.form, notes)
            elements, cut = found.elements, found.cut
        mended = mend(elements, self.space.bounds(input_hw), labels, notes)
        detections = Detections(self.space.to_pixels(mended.boxes, image_hw, input_hw), mended.labels)
        reason = _reason(len(detections), cut, notes)
        if not mended.boxes and not (exact and not elements):
            return DecodeResult("malformed", Detections.empty(), reason or "no box found")
        if exact and not notes:
            return DecodeResult("ok", detections, spans=tuple(mended.spans))
        return DecodeResult("repaired", detections, reason or "punctuation mended", tuple(mended.spans))

    def describe(self) -> dict[str, str]:
        """Names that `from_description` makes the same codec of; saved in checkpoints."""
        return {"space": self.space.name, "form": self.form.name}

    @classmethod
    def from_description(cls, description: Mapping[str, str]) -> Codec:
        """The codec that `describe` described.

        Raises:
            ConfigError: a name is missing or unknown.
        """
        return cls(_named(_SPACES, "space", description), _named(_FORMS, "form", description))


_SPACES: dict[str, CoordinateSpace] = {space.name: space for space in (Relative1000(), InputPixels())}
_FORMS: dict[str, TextForm] = {TokenForm.name: TokenForm(), JsonForm.name: JsonForm()}


def _named(table: dict[str, _T], what: str, description: Mapping[str, str]) -> _T:
    name = description.get(what, "")
    if name not in table:
        raise ConfigError(f"The coordinate convention has no {what} {name!r}. {nearest(str(name), table)}")
    return table[name]


_NO_OBJECTS = re.compile(
    r"(?:there (?:is|are) |i (?:see|found|find) )?(?:none|null|nothing|empty|n/a|"
    r"no (?:\w{1,30} ){0,3}?(?:objects?|instances?|boxes|detections?|results?|matches))"
    r"(?: (?:is|are|was|were|found|detected|present|visible)){0,2}(?: in (?:the|this) (?:image|picture|photo))?",
    re.IGNORECASE,
)
_EMPTY_LIST = re.compile(r"\[\s{0,50}\]|^\s*\{\s*\}\s*$")
_FENCE = re.compile(r"```(?:[A-Za-z]{1,10}\b)?")


def _without_end_tokens(text: str, notes: Notes) -> str:
    """The text up to the first token that ends a turn."""
    end = min((at for token in END_TOKENS if (at := text.find(token)) >= 0), default=-1)
    if end < 0:
        return text
    notes.add("text after the end token" if text[end:].strip() not in END_TOKENS else "end token removed")
    return text[:end]


def _says_nothing(answer: str, found: Salvage, form: TextForm) -> str:
    """The reason for which a text without boxes is an empty answer, or ""."""
    if found.elements or found.forms or found.cut or not found.nothing_lost:
        return ""
    if answer.strip() == form.empty_answer:
        return "end token removed"
    words = _FENCE.sub("", answer[:500]).strip(" \t\n\r.!\"'`*") if len(answer) <= 500 else ""
    if _NO_OBJECTS.fullmatch(words) or _EMPTY_LIST.search(answer):
        return f"an empty answer in other words than {form.empty_answer}"
    return ""


def _note_surroundings(answer: str, found: Salvage, form: TextForm, notes: Notes) -> None:
    if "```" in answer:
        notes.add("code fence removed")
    if found.elements:
        begin, end = found.extent
        around = _FENCE.sub("", answer[:begin] + " " + answer[end:])
        if re.search(r"[^\W_]", around) and not found.cut:
            notes.add("text around the answer")
    if len(found.forms) > 1:
        notes.add("two text forms mixed")
    elif found.forms and form.name not in found.forms:
        notes.add(f"written in the form '{next(iter(found.forms))}'")


def _reason(kept: int, cut: bool, notes: Notes) -> str:
    parts = [f"cut off after {kept} {'box' if kept == 1 else 'boxes'}"] if cut else []
    return "; ".join(parts + ([str(notes)] if notes else []))
