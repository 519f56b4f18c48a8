"""Where there is no GPU nothing travels."""

from __future__ import annotations

import torch

from boxtune.models.sending import sent


def test_what_is_there_stays():
    tensor = torch.arange(3)
    assert sent(tensor, torch.device("cpu")) is tensor
