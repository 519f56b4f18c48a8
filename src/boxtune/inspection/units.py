"""Numbers short enough for a column."""

from __future__ import annotations

_COUNTS = ((10**9, "B"), (10**6, "M"), (10**3, "k"))
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def short_count(number: int) -> str:
    """`7,615,616,512` → `7.62 B`, three digits; exact below a thousand."""
    return _scaled(number, _COUNTS, str(number))


def short_bytes(number: int) -> str:
    """`16,584,333,312` → `15.4 GiB`, three digits; exact below 1024."""
    return _scaled(number, _BYTES, f"{number} B")


def _scaled(number: int, units: tuple[tuple[int, str], ...], exact: str) -> str:
    for size, unit in units:
        if number >= size:
            value = number / size
            return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"
    return exact
