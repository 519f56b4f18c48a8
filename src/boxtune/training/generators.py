"""The random generators of a process, kept and put back: python's, numpy's, and torch's of CPU and every GPU."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Generators:
    """Where all of them are when this is made."""

    python: Any = field(default_factory=random.getstate)
    arrays: Any = field(default_factory=np.random.get_state)
    cpu: torch.Tensor = field(default_factory=torch.get_rng_state)
    gpus: list[torch.Tensor] = field(
        default_factory=lambda: torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    )

    def put_back(self) -> None:
        """Go on from there."""
        random.setstate(self.python)
        np.random.set_state(self.arrays)
        torch.set_rng_state(self.cpu)
        if self.gpus:
            torch.cuda.set_rng_state_all(self.gpus)
