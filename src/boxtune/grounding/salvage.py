"""Boxes out of text that keeps to no grammar: one scanner for both text forms, because models mix them.

The text is walked once, from one structural event to the next (a special token, a key, a bracket, a number, a word).
Flat groups of numbers are gathered: a group of four is a box, and so are two neighbouring groups of two, which is the
same rule for `[1, 2, 3, 4]`, `(1,2),(3,4)` and `[[1, 2], [3, 4]]`. Boxes join the label of their object or reference.
Every pattern is bounded or possessive and the position only moves forward, so time is linear in the text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from boxtune.grounding.elements import BoxSpan, Element, FourNumbers, FourSpans, Notes, Span, quoted
from boxtune.grounding.special_tokens import BOX_END, BOX_START, END_TOKENS, QUAD_END, QUAD_START, REF_END, REF_START

LONGEST = 100_000
"""Characters that are read; no answer within a sensible token limit is longer."""

BOX_KEYS = ("bbox_2d", "box_2d", "bbox", "box")
LABEL_KEYS = ("label", "name", "class", "category", "text_content")

_EVENT = re.compile(
    r"""
    (?P<special> <\|[A-Za-z0-9_]{1,40}\|> )
  | (?P<key> ["']? (?i:(?P<name>KEYS)) ["']? \s{0,20} [:=] \s{0,20} )
  | (?P<open> [\[(] [\[(\s]*+ )
  | (?P<close> [\])] [\])\s]*+ )
  | (?P<brace> [{}] )
  | (?P<mark> ["']?) (?P<number> [-+]? (?: [0-9]++ (?:\.[0-9]*+)? | \.[0-9]++ ) (?: [eE][-+]?[0-9]++ )? ) (?P=mark)
  | (?P<word> [^\W\d]\w*+ | ``` )
    """.replace("KEYS", "|".join(BOX_KEYS + LABEL_KEYS)),
    re.VERBOSE,
)
# A string up to the quote that something structural follows, so that a quote inside of it does not end it. What a look
# ahead has found is not tried again in another way, nor is it by `{0,300}+`, but Python before 3.11.5 reads that
# wrongly where several forms may stand (CPython issue 106052) …
_STRING = re.compile(r"""(["'])(?=((?:\\.|(?!\1\s{0,9}(?:[,:}\]"'{<`\n]|\Z))[^\\\n]){0,300}))\2\1""")
# … and when there is none, up to the first quote, or to the end of the line where the text was cut.
_SHORT_STRING = re.compile(r"""(["'])((?:\\.|(?!\1)[^\\\n])*)(\1?)""")
_BARE_VALUE = re.compile(r"(?:[^,}\]\n\"<{\[(]|\((?!\s?[0-9])){0,300}")
_REFERENCE = re.compile(r"[^<]*+(?:<(?!\|)[^<]*+)*")
_LABEL_ENDS = " \t\r\n,.:;*-`\"'[({"
_LABEL_STARTS = _LABEL_ENDS + "])}"
_NUMBERS_AHEAD = re.compile(r"\(\s{0,9}[0-9]")


@dataclass(frozen=True)
class Salvage:
    """What was found in a text.

    Attributes:
        elements: the boxes, in the order of the text.
        cut: the text ends in the middle of an answer.
        forms: which text forms were seen, by name.
        nothing_lost: no part of a box or label was seen that is not among the elements.
        extent: from the first to the last object or reference, complete or not.
    """

    elements: list[Element]
    cut: bool
    forms: frozenset[str]
    nothing_lost: bool
    extent: Span


def salvage(text: str, notes: Notes) -> Salvage:
    """Read whatever boxes a text holds; never raises. What was mended or dropped on the way is added to `notes`."""
    if len(text) > LONGEST:
        notes.add(f"longer than {LONGEST} characters, the rest not read")
    return _Scanner(text[:LONGEST], notes).run()


@dataclass
class _Numbers:
    """A flat group of numbers in brackets."""

    opener: str
    start: int
    end: int
    values: list[float] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


@dataclass
class _Group:
    """A label and its boxes: a JSON object, or a reference with what follows it."""

    start: int
    end: int
    label: str | None = None
    label_span: Span | None = None
    label_is_guess: bool = False
    boxes: list[_Numbers] = field(default_factory=list)
    box_dropped: bool = False


class _Scanner:
    """The state between two events. One method an event; each returns where to read on."""

    def __init__(self, text: str, notes: Notes) -> None:
        self.text, self.notes = text, notes
        self.elements: list[Element] = []
        self.forms: set[str] = set()
        self.group: _Group | None = None
        self.numbers: _Numbers | None = None  # the flat group that is open
        self.pairs: list[_Numbers] = []  # neighbouring groups of two
        self.expecting = False  # a box must follow, so that numbers count even without a bracket
        self.quad = False
        self.in_object = False
        self.in_reference = False  # a label was read whose box has not begun
        self.in_box = False  # between the special tokens of a box
        self.depth = 0  # of square brackets outside of objects
        self.after = 0  # end of the last structure: a guessed label cannot begin before it
        self.cut = False
        self.lost = False
        self.begin, self.end = len(text), 0

    def run(self) -> Salvage:
        position, end = 0, len(self.text)
        while match := _EVENT.search(self.text, position):
            kind = match.lastgroup
            if kind == "special":
                position = self.special(match)
            elif kind == "key":
                position = self.key(match)
            elif kind == "number":
                position = self.number(match)
            else:
                position = match.end()
                if kind == "open":
                    self.opening(match)
                elif kind == "close":
                    self.closing(match)
                elif kind == "brace":
                    self.brace(match)
                else:
                    self.interrupt(match.start())
        self.finish(end)
        return Salvage(self.elements, self.cut, frozenset(self.forms), not self.lost, (self.begin, self.end))

    # -- events ------------------------------------------------------------------------------------------------------

    def special(self, match: re.Match[str]) -> int:
        token, position = match[0], match.end()
        if token in (REF_START, REF_END):
            self.interrupt(match.start())
            position = self.reference(match)
        elif token in (BOX_START, QUAD_START):
            self.interrupt(match.start())
            self.expecting, self.quad = True, token == QUAD_START
            self.in_reference, self.in_box = False, True
            self.forms.add("tokens")
        elif token in (BOX_END, QUAD_END):
            self.interrupt(match.start())
            self.in_box = False
            if self.group and self.group.boxes:
                self.group.end = position
        elif token not in END_TOKENS:
            self.interrupt(match.start())
            self.notes.add("special tokens ignored")
        self.after = position
        return position

    def reference(self, match: re.Match[str]) -> int:
        """The label between reference tokens, either of which may be missing; returns where it ends."""
        self.forms.add("tokens")
        self.in_reference = True
        if match[0] == REF_END:  # the opening token is missing: the label is what stood before
            self.guess_label(match.start())
            if self.group:
                self.group.end = match.end()
            return match.end()
        self.flush()
        begin, end = match.end(), _match(_REFERENCE, self.text, match.end()).end()
        closed = self.text.startswith(REF_END, end)
        if not closed and (ahead := _NUMBERS_AHEAD.search(self.text, begin, end)):
            end = ahead.start()
        self.group = _Group(match.start(), end, self.text[begin:end], (begin, end))
        if not closed:
            self.notes.add("a special token missing")
        return end + len(REF_END) if closed else end

    def key(self, match: re.Match[str]) -> int:
        self.interrupt(match.start())
        self.forms.add("json")
        name = match["name"].lower()
        is_box = name in BOX_KEYS
        native = "bbox_2d" if is_box else "label"
        if name != native:
            self.notes.add(f"key '{name}' read as '{native}'")
        group = self.group
        starts_new = group is not None and group.label is not None and (group.boxes or not is_box)
        if starts_new:
            self.flush()
        if self.group is None:
            self.group = _Group(match.start(), match.end())
        self.after = match.end()
        if is_box:
            if self.group.label is not None:
                self.notes.add("keys in another order")
            self.expecting = True
            return match.end()
        return self.label_value(self.group, match.end())

    def label_value(self, group: _Group, start: int) -> int:
        """The value of a label key that begins at `start`; returns where it ends."""
        text = self.text
        if start < len(text) and text[start] in "\"'":
            string = _STRING.match(text, start) or _match(_SHORT_STRING, text, start)
            if string.re is _SHORT_STRING and not string[3]:
                self.cut |= string.end() == len(text)
                self.notes.add("a label not closed")
            else:
                group.label, group.label_span = _unescaped(string[2], string[1]), string.span(2)
            if string[1] == "'":
                self.notes.add("single quotes")
            end = string.end()
        else:
            value = _match(_BARE_VALUE, text, start)
            label, end = value[0].strip(), value.end()
            if label and label not in ("null", "None"):
                group.label, group.label_span = label, (start, start + len(value[0].rstrip()))
                self.notes.add("label without quotes")
        group.end = self.after = end
        return end

    def number(self, match: re.Match[str]) -> int:
        if self.numbers is None and (self.expecting or self.pairs):
            self.numbers = _Numbers("", match.start(), match.start())
        if self.numbers is not None:
            if match["mark"]:
                self.notes.add("numbers in quotes")
            if not match["number"].isdigit():
                self.notes.add("numbers that are not whole or have a sign")
            self.numbers.values.append(float(match["number"]))
            self.numbers.spans.append(match.span("number"))
            self.numbers.end = match.end()
        return match.end()

    def opening(self, match: re.Match[str]) -> None:
        self.close_numbers(bracket=False)
        if not self.in_object:
            self.depth += match[0].count("[")
        bracket = match.start() + len(match[0].rstrip()) - 1
        self.numbers = _Numbers(self.text[bracket], bracket, bracket + 1)

    def closing(self, match: re.Match[str]) -> None:
        inner = self.numbers is not None
        if not self.in_object:
            self.depth = max(0, self.depth - match[0].count("]"))
        if self.numbers is not None:
            self.numbers.end = match.start() + 1
            self.close_numbers(bracket=True)
        elif self.in_object and not self.pairs and self.group and self.group.boxes and self.group.label is not None:
            self.notes.add("a bracket missing")  # the list ends, but the object was not closed
            self.flush()
            self.in_object = False
        brackets = match[0].count(")") + match[0].count("]")
        if not inner or brackets > 1:
            self.close_pairs()

    def brace(self, match: re.Match[str]) -> None:
        self.interrupt(match.start())
        if match[0] == "{":
            self.flush()
            self.group = _Group(match.start(), match.end())
        else:
            if self.group:
                self.group.end = match.end()
            self.flush()
        self.in_object = match[0] == "{"
        self.after = match.end()

    def interrupt(self, position: int) -> None:
        """Something that is no number: whatever box was being read ends here."""
        self.close_numbers(bracket=False)
        self.close_pairs()
        self.expecting = False

    def finish(self, end: int) -> None:
        if self.numbers is not None and self.numbers.values:
            self.cut = True  # the last number may lack digits, so the box is not used
            self.numbers, self.pairs = None, []
        if len(self.pairs) % 2:
            self.cut = True
            self.pairs.pop()
        self.close_pairs()
        self.cut |= self.in_object or self.in_reference or self.in_box or self.depth > 0
        if self.cut and self.group and not self.group.boxes:
            self.group = None
        self.flush()

    # -- what the events build ---------------------------------------------------------------------------------------

    def close_numbers(self, *, bracket: bool) -> None:
        numbers, self.numbers = self.numbers, None
        if numbers is None or not numbers.values:
            return
        count = len(numbers.values)
        if count == 2:
            self.pairs.append(numbers)
        else:
            self.close_pairs()
            if count == 4:
                self.box(numbers)
            elif count > 2 or self.expecting:
                self.drop(count)
        if not (bracket and numbers.opener):
            self.notes.add("a bracket missing")

    def close_pairs(self) -> None:
        """Two groups of two are a box; more of them in round brackets are more boxes, in square ones a polygon."""
        pairs, self.pairs = self.pairs, []
        many = len(pairs) > 2 and (self.quad or pairs[0].opener != "(")
        if len(pairs) % 2 or many:
            self.drop(2 * len(pairs))
            return
        for a, b in zip(pairs[::2], pairs[1::2], strict=True):
            self.box(_Numbers(a.opener, a.start, b.end, a.values + b.values, a.spans + b.spans))

    def drop(self, count: int) -> None:
        self.lost = True
        self.notes.add(f"dropped # with {count} numbers instead of 4")
        if self.group:
            self.group.box_dropped = True

    def box(self, numbers: _Numbers) -> None:
        if numbers.opener == "(" and not self.in_object:
            self.guess_label(numbers.start)
            self.forms.add("tokens")
        else:
            self.forms.add("tokens" if self.in_box else "json")
        if self.in_reference:
            self.notes.add("a special token missing")
            self.in_reference = False
        if self.group is None:
            self.group = _Group(numbers.start, numbers.end)
        self.group.boxes.append(numbers)
        self.group.end = max(self.group.end, numbers.end)
        self.after = numbers.end

    def guess_label(self, end: int) -> None:
        """Open a group whose label is the text before `end`, as in `table(1,2),(3,4)`, if there is any."""
        before = self.text[self.after : end].rstrip(_LABEL_ENDS)
        label = before[max(before.rfind(mark) for mark in "\n:;") + 1 :].lstrip(_LABEL_STARTS)
        if not label:
            return
        begin = self.after + len(before) - len(label)
        self.notes.add("label taken from the text before the box")
        self.flush()
        self.group = _Group(begin, end, label, (begin, begin + len(label)), label_is_guess=True)

    def flush(self) -> None:
        """The group is complete: its boxes become elements."""
        group, self.group = self.group, None
        if group is None:
            return
        self.begin, self.end = min(self.begin, group.start), max(self.end, group.end)
        if not group.boxes and group.label is not None and not group.box_dropped:
            self.lost = True
            self.notes.add(f"label {quoted(group.label)} without a box")
        for box in group.boxes:
            span = BoxSpan((group.start, group.end), group.label_span or (box.start, box.start), _four_spans(box))
            self.elements.append(Element(group.label, _four_numbers(box), span, group.label_is_guess))


def _four_numbers(box: _Numbers) -> FourNumbers:
    a, b, c, d = box.values
    return a, b, c, d


def _four_spans(box: _Numbers) -> FourSpans:
    a, b, c, d = box.spans
    return a, b, c, d


def _match(pattern: re.Pattern[str], text: str, position: int) -> re.Match[str]:
    """The match of a pattern that fits everywhere."""
    match = pattern.match(text, position)
    assert match is not None
    return match


def _unescaped(body: str, quote: str) -> str:
    """The value of a string between quotes, by JSON's escapes where they are sound, else with backslashes removed."""
    if quote == "'":
        body = body.replace("\\'", "'")
    body_as_json = re.sub(r'\\.|"', lambda m: '\\"' if m[0] == '"' else m[0], body, flags=re.DOTALL)
    try:
        value: str = json.loads(f'"{body_as_json}"', strict=False)
    except ValueError:
        return re.sub(r"\\(.)", r"\1", body, flags=re.DOTALL)
    return value
