"""How processes that read images end."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import torch
from boxtune.training.readers import reader_init

loader = torch.utils.data.DataLoader(list(range(100)), num_workers=1, worker_init_fn=reader_init(None))
sys.stderr.kept = iter(loader)  # as an error's traceback keeps it
print(next(sys.stderr.kept).item())
"""


def test_a_program_ends_though_a_loader_was_left_in_its_middle():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "0\n"
    assert "Traceback" not in done.stderr
