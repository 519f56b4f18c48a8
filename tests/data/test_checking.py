from __future__ import annotations

from pathlib import Path

from rich.console import Console

from boxtune.data import checking
from boxtune.data.checking import CheckedDrafts
from boxtune.data.records import BadRecordError, Draft, Reading, SkippedRecord, check_reading


def drafts_of(path: Path, ids: str):
    """One a letter; capitals are wrong by themselves."""
    for number, letter in enumerate(ids, start=1):
        problem = BadRecordError("wrong", f"line {number}, box") if letter.isupper() else None
        yield Draft(letter.lower(), path, f"line {number}", problem=problem)


def test_twins_are_all_refused_as_by_the_check_of_a_list(tmp_path, put_image):
    path = put_image(tmp_path / "a.jpg")
    for ids in ("abc", "aba", "aAb", "AAb", "Abc", "abcabca", ""):
        lost = [SkippedRecord("file", "lost")]
        records, skipped = check_reading(Reading(drafts_of(path, ids), lost=lost))
        checked = CheckedDrafts(Reading(drafts_of(path, ids), lost=lost), [], [])
        passed = list(checked)
        dropped = checked.refuse_twins(passed)
        assert [record for row, record in enumerate(passed) if row not in dropped] == records, ids
        assert checked.skipped == skipped, ids


def test_drafts_that_were_begun_with_come_first(tmp_path, put_image):
    drafts = drafts_of(put_image(tmp_path / "a.jpg"), "abc")
    reading = Reading(drafts)
    checked = CheckedDrafts(reading, [next(drafts)], [])
    assert [record.id for record in checked] == ["a", "b", "c"]


def test_surroundings_matter_where_something_was_refused(tmp_path, put_image):
    path = put_image(tmp_path / "images" / "a.jpg")
    for ids, expected in (("ab", []), ("aB", sorted(map(str, (tmp_path / "near", path.parent, path))))):
        checked = CheckedDrafts(Reading(drafts_of(path, ids)), [], [tmp_path / "near"])
        list(checked)
        assert checked.surroundings == expected


def test_progress_is_shown_on_a_terminal_alone(tmp_path, put_image, monkeypatch):
    path = put_image(tmp_path / "a.jpg")
    for on_terminal in (True, False):
        console = Console(record=True, force_terminal=on_terminal, width=80)
        monkeypatch.setattr(checking, "Console", lambda stderr, console=console: console)
        monkeypatch.setattr(checking, "_SHOWN_EVERY", 1)
        with console.capture() as said:
            list(CheckedDrafts(Reading(drafts_of(path, "abcde")), [], []))
        assert ("images checked" in said.get()) == on_terminal
