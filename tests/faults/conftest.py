"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.sittings import Sittings
from training.runs import write_coco


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=3, help="How often the run of test_killed.py is killed.")


@pytest.fixture(scope="session")
def sitting() -> Iterator[Sittings]:
    """Runs a command in a process of its own."""
    sittings = Sittings()
    yield sittings
    sittings.end()


@pytest.fixture(scope="session")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", 8)
