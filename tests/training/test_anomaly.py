"""The operation that a NaN comes from is named; other errors are left alone."""

from __future__ import annotations

import pytest
import torch

from boxtune.errors import ModelError
from boxtune.training.anomaly import naming_operations


def test_the_operation_is_named():
    x = torch.zeros((), requires_grad=True)
    with (
        pytest.raises(ModelError, match=r"Step 3, images a, b: Function 'SqrtBackward0' returned nan values"),
        pytest.warns(UserWarning, match="Error detected in SqrtBackward0"),
        naming_operations(True, 3, ["a", "b"]),
    ):
        (x.sqrt() * 0).backward()
    assert not torch.is_anomaly_enabled()
    with pytest.raises(RuntimeError, match="elsewhere"), naming_operations(True, 3, []):
        raise RuntimeError("elsewhere")


def test_where_it_is_not_wanted_nothing_is_done():
    x = torch.zeros((), requires_grad=True)
    with naming_operations(False, 3, ["a"]):
        assert not torch.is_anomaly_enabled()
        (x.sqrt() * 0).backward()
    assert x.grad.isnan()
