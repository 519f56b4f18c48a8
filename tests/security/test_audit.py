"""`make audit` tells "nothing is known against it" from "nobody could be asked"."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / ".ci" / "audit.py"


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3", "2.1"], "aliases": []}]}
OPEN = {"name": "c", "version": "2", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
SKIPPED = {"name": "d", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "code", "said"),
    [
        ([], 3, "cannot be reached"),
        ([SKIPPED], 3, "nothing was audited"),
        ([CLEAN], 0, "1 packages, nothing known against them"),
        ([CLEAN, SKIPPED], 0, "not audited: d"),
        ([CLEAN, BAD], 1, "b 2: CVE-1, mended in 3, 2.1"),
        ([OPEN, SKIPPED], 1, "no version yet"),
    ],
)
def test_verdicts(audit, dependencies, code, said):
    found, lines = audit.verdict({"dependencies": dependencies})
    assert found == code
    assert said in "\n".join(lines)


def test_a_report_that_is_none_is_no_all_clear(audit, monkeypatch, capsys):
    monkeypatch.setattr(audit.sys, "executable", "true")  # ends with 0, and says nothing
    assert audit.main() == 3
    assert "cannot be reached" in capsys.readouterr().out
