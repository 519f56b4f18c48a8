"""Which adapters were computed together with their base."""

from __future__ import annotations

from typing import Any

import pytest

from boxtune.models.joined_adapters import JoinableLinear


def count_products(monkeypatch: pytest.MonkeyPatch, made: list[int]) -> None:
    """One entry from now on for each product that is made of two."""
    decide = JoinableLinear._joins_now

    def deciding(self: JoinableLinear, x: Any) -> bool:
        if is_one := decide(self, x):
            made.append(1)
        return is_one

    monkeypatch.setattr(JoinableLinear, "_joins_now", deciding)
