"""`boxtune app`: how it begins, how it ends, and what it refuses to begin."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

from serve.running import Client


def test_it_says_where_it_is_and_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-m", "boxtune", "app", "--model", "tiny:qwen2_vl", "--port", "0"]
    place = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place)
    try:
        assert process.stdout is not None
        port = int(re.search(r"http://127.0.0.1:(\d+) in a browser", process.stdout.readline())[1])
        assert b"boxtune" in Client(port).get("/").body
        (folder,) = tmp_path.glob("boxtune-app-*")
        assert folder.stat().st_mode & 0o077 == 0, "others on this machine can read what is uploaded"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")
        assert not folder.exists()
    finally:
        process.kill()


def test_what_it_refuses(cli, tmp_path, monkeypatch):
    for arguments, words in (
        (["--runs", tmp_path / "nothing"], "check --runs"),
        (["--model", tmp_path / "nothing"], "No model at"),
        (["--split", "val"], "name it with --data"),
        (["--data", tmp_path / "nothing"], "nothing"),
        (["--host", "no such host"], "Cannot listen on no such host"),
    ):
        code, _, err = cli("app", *arguments)
        assert code == 2
        assert words in err
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name))
    code, _, err = cli("app")
    assert (code, err) == (2, "boxtune: gradio is not installed: pip install 'boxtune[app]' brings it.\n")
