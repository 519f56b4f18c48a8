"""What tests of the command line share."""

from __future__ import annotations

import sys

import pytest

from boxtune.cli import main


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run a command line in this process: `(exit code, stdout, stderr)`."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["boxtune", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main.run()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run
