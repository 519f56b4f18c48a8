"""Every test of a format runs twice: records in a list, and mapped from an index as for a large data set."""

from __future__ import annotations

import pytest

from boxtune.data import opening


@pytest.fixture(params=["list", "index"], autouse=True)
def records_kept_as(request, tmp_path_factory, monkeypatch):
    if request.param == "index":
        monkeypatch.setattr(opening, "INDEXED_FROM", 1)
        monkeypatch.setenv("BOXTUNE_CACHE", str(tmp_path_factory.mktemp("boxtune-cache")))
    return request.param
