"""Shares of work do not know how many there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxtune import processes


@given(st.integers(0, 60), st.integers(1, 8), st.integers(1, 5))
def test_shares_are_whole_blocks_and_make_up_all(num_items, block, num_processes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(num_processes))
        shares = []
        for rank in range(num_processes):
            patch.setenv("RANK", str(rank))
            shares.append(processes.own_share(num_items, block))
    assert sorted(item for share in shares for item in share) == list(range(num_items))
    for share in shares:
        cut = [share[begin : begin + block] for begin in range(0, len(share), block)]
        assert all(items == [items[0] + step for step in range(len(items))] for items in cut)
        assert all(items[0] % block == 0 for items in cut)


def test_one_process_has_nobody_to_ask():
    with processes.joined():
        assert processes.of_all(lambda: 3) == [3]
    with pytest.raises(KeyError):
        processes.of_all(lambda: {}["x"])
    assert (processes.rank(), processes.is_first(), processes.count()) == (0, True, 1)
