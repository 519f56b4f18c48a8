from __future__ import annotations

import os
from pathlib import Path

import pytest

from boxtune.data.formats.state import files_below, has_files_below, state_of_file, state_of_files

NAMES = [
    "a.jpg",
    "A.JPG",
    "a/b.jpg",
    "a.b/c.png",
    "a b/é.jpeg",
    "a/a/a.txt",
    "z.txt",
    "b/.jpg",
    "b/none",
    "b/x.jpg.bak",
]
SUFFIXES = (".jpg", ".jpeg", ".png")


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "z.txt")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    return tmp_path


def test_files_come_in_the_order_of_paths(tree):
    expected = sorted(path for path in tree.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    assert list(map(Path, files_below(tree, SUFFIXES))) == expected
    assert len(expected) == 6
    flat = sorted(path for path in tree.glob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    assert list(map(Path, files_below(tree, SUFFIXES, deep=False))) == flat


@pytest.mark.parametrize(
    ("suffix", "deep", "there"), [(".png", True, True), (".png", False, False), (".gif", True, False)]
)
def test_whether_there_is_one(tree, suffix, deep, there):
    assert has_files_below(tree, (suffix,), deep=deep) == there


def test_a_state_changes_with_content_time_and_presence(tmp_path):
    path = tmp_path / "a.txt"
    seen = {state_of_file(path)}
    path.write_text("1")
    seen.add(state_of_file(path))
    path.write_text("12")
    seen.add(state_of_file(path))
    os.utime(path, ns=(5, 5))
    seen.add(state_of_file(path))
    os.utime(path, ns=(5, 6))
    seen.add(state_of_file(path))
    assert len(seen) == 5
    assert state_of_file(path) in seen


def test_the_state_of_many(tree):
    def state(**options) -> str:
        return state_of_files(files_below(tree, SUFFIXES), **options)

    both = state(), state(names_only=True)
    assert (state(), state(names_only=True)) == both
    os.utime(tree / "a" / "b.jpg", ns=(5, 5))
    assert state() != both[0]
    assert state(names_only=True) == both[1]
    (tree / "a" / "b.jpg").rename(tree / "a" / "c.jpg")
    assert state(names_only=True) != both[1]
