"""A hub that cannot be reached, or that takes the call and says nothing: one line within seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """Somebody who takes calls and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("command", ["model", "data"])
@pytest.mark.parametrize("kind", ["silent", "refusing"])
def test_hub(kind, command, silent, coco, tmp_path):
    endpoint = silent if kind == "silent" else "http://127.0.0.1:9"
    arguments = {
        "model": ["predict", "--model", "Qwen/Qwen2-VL-2B-Instruct", "--image", str(coco)],
        "data": ["inspect", "data", "--data", "openfoodfacts/nutrition-table-detection"],
    }[command]
    output = ["--output-dir", str(tmp_path / "o")] if command == "model" else []
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "boxtune", *arguments, *output],
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - began
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert line.startswith("boxtune: ")
    assert "the hub cannot be reached, nor is it in the cache here. Where there is a network `hf download" in line
    assert "Traceback" not in done.stderr
    assert seconds < 60  # of a busy machine, most of it for importing; without asking first it is minutes
