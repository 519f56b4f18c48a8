from __future__ import annotations

import torch

from boxtune.models.detection_head.adapters import Intake, ResidualMLPAdapter


def test_an_adapter_changes_nothing_at_the_start_and_learns():
    adapter = ResidualMLPAdapter(32, 8)
    states = torch.randn(2, 3, 32)
    assert torch.equal(adapter(states), states)
    assert adapter.down.out_features == 4
    adapter(states).square().sum().backward()
    assert float(adapter.up.weight.grad.abs().sum()) > 0


def test_a_bottleneck_is_at_least_one_wide():
    assert ResidualMLPAdapter(4, 8).down.out_features == 1


def test_intake_bears_the_channels_of_large_models():
    """A thousandfold channel must not make all tokens look alike, nor may bf16 come out as something else's dtype."""
    intake = Intake(32, 8, 16)
    states = torch.randn(5, 32)
    states[:, 3] *= 1000
    out = intake(states.bfloat16())
    assert out.dtype == torch.float32
    assert out.shape == (5, 16)
    torch.testing.assert_close(out.std(-1, unbiased=False), torch.ones(5), atol=1e-2, rtol=0)
