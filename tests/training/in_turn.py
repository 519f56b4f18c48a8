"""Runs command lines of boxtune (JSON: a list of lists) one after the other, so that importing is done once.

A program of its own, started by torchrun in `test_processes.py`.
"""

from __future__ import annotations

import json
import sys

from boxtune.cli.main import run

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["boxtune", *arguments]
    try:
        run()
    except SystemExit as end:
        if end.code:
            raise
