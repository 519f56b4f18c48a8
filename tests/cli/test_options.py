"""Output folders are tried out before any work is done."""

from __future__ import annotations

import errno
import sys
import tempfile

import pytest

from boxtune.cli.options import check_writable, claim_output_dir
from boxtune.errors import ConfigError, SaveError


def test_nothing_is_left_behind(tmp_path):
    claim_output_dir(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_or_a_full_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SaveError, match="file is a file: choose another --output-dir"):
            claim_output_dir(place)
    with pytest.raises(ConfigError, match="is not an empty folder"):
        claim_output_dir(tmp_path)
    check_writable(tmp_path)  # looked at again is written over


def test_a_disk_that_takes_nothing_is_refused(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(SaveError, match=r"new cannot be written: Read-only file system\. Choose another --output-dir"):
        claim_output_dir(tmp_path / "new")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "data", "--data", "nowhere"),
        ("inspect", "data", "--data", "nowhere", "--boxes-only"),
        ("evaluate", "--model", "nowhere", "--data", "nowhere"),
        ("compare", "--models", "a,b", "--data", "nowhere"),
        ("compare", "--predictions", "a,b", "--annotations", "nowhere"),
        ("predict", "--model", "nowhere", "--image", "nowhere"),
    ],
    ids=" ".join,
)
def test_commands_refuse_before_they_look_at_anything_else(cli, command):
    code, _, err = cli(*command, "--output-dir", "/proc/x")
    assert (code, err.count("\n")) == (2, 1)
    assert "/proc/x cannot be written" in err
