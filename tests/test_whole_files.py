"""A file is there whole, or the older one stands."""

from __future__ import annotations

import pytest

from boxtune import whole_files
from boxtune.whole_files import whole_file, write_text


def test_small_files(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_text(path, "old é\n")
    assert path.read_bytes() == "old é\n".encode()
    monkeypatch.setattr(whole_files, "sync_file", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_text(path, "new")
    assert path.read_bytes() == "old é\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_while_it_is_written_leaves_the_older_one(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path) as aside:
            aside.write_text("half of")
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
