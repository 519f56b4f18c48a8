"""What is saved has its name whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxtune.errors import ModelError
from boxtune.models.load import load_model
from boxtune.training import aside
from boxtune.training.aside import (
    UNFINISHED,
    discard,
    discard_unfinished,
    move_into,
    publish,
    written_aside,
)


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_gets_its_name_once_it_is_whole(tmp_path):
    target = tmp_path / "checkpoint-1"
    with written_aside(tmp_path, target.name) as folder:
        (folder / "a").write_text("new")
        assert not target.exists()
        publish(folder, target)
    assert files(tmp_path) == {"checkpoint-1/a": "new"}
    with written_aside(tmp_path, target.name) as folder:  # one that was not whole, of an earlier boxtune
        (folder / "b").write_text("newer")
        publish(folder, target)
    assert files(tmp_path) == {"checkpoint-1/b": "newer"}
    assert not (tmp_path / UNFINISHED).exists()
    discard(target)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(aside, "sync", full)
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "a").write_text("old")

    def save() -> None:
        with written_aside(tmp_path, "checkpoint-1") as folder:
            (folder / "a").write_text("new")
            publish(folder, tmp_path / "checkpoint-1")

    with pytest.raises(OSError, match="No space left"):
        save()
    assert files(tmp_path) == {"checkpoint-1/a": "old"}


def test_leftovers_of_a_killed_process(tmp_path):
    (tmp_path / UNFINISHED / "checkpoint-3").mkdir(parents=True)
    (tmp_path / UNFINISHED / "checkpoint-3" / "half").touch()
    with written_aside(tmp_path, "checkpoint-3") as folder:
        assert list(folder.iterdir()) == []
    (tmp_path / UNFINISHED / "checkpoint-3").mkdir(parents=True)
    discard_unfinished(tmp_path)
    discard_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_model_moves_in_over_an_older_one(tmp_path):
    for name in ("boxtune.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors", "metrics.json"):
        (tmp_path / name).write_text("old")
    with written_aside(tmp_path, "model") as folder:
        for name in ("boxtune.json", "model.safetensors", "config.json"):
            (folder / name).write_text("new")
        move_into(folder, tmp_path, seal="boxtune.json")
    assert files(tmp_path) == {
        "boxtune.json": "new",
        "model.safetensors": "new",
        "config.json": "new",
        "metrics.json": "old",
    }


def test_the_seal_is_last(tmp_path, monkeypatch):
    """Stopped at each file in turn, a folder never looks finished before it is; loading refuses it until then."""
    real, moved = Path.replace, []

    def finish(home: Path) -> None:
        with written_aside(home, "model") as folder:
            for name in ("boxtune.json", "config.json", "model.safetensors", "run.json"):
                (folder / name).write_text("{}")
            move_into(folder, home, seal="boxtune.json")

    for stop_at in range(4):
        home = tmp_path / str(stop_at)
        (home / "checkpoint-1").mkdir(parents=True)
        (home / "checkpoint-1" / "boxtune.json").write_text("{}")
        (home / "boxtune.json").write_text("old")

        def replace(self, target, stop_at=stop_at):
            if len(moved) == stop_at:
                raise KeyboardInterrupt
            moved.append(target)
            return real(self, target)

        moved.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                finish(home)
        assert not (home / "boxtune.json").exists()
        if (home / "run.json").exists():  # written at a run's start
            with pytest.raises(ModelError, match=r"is an unfinished run: use .*checkpoint-1"):
                load_model(str(home))
