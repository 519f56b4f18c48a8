"""A run in several processes, one a device (`torchrun -m boxtune train …`): the first one speaks and writes.

Which process this is says the environment, as torchrun and `accelerate launch` set it (torch.distributed, "Environment
variable initialization"); so it is known before any device is touched.
"""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether this process is the only one, or the first of all machines."""
    return int(os.environ.get("RANK", "0")) == 0


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
