"""`boxtune serve`: how it begins, how it ends, and what it refuses to begin."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from serve.running import Client, png, until


def test_sigterm_finishes_what_waits_refuses_the_rest_and_ends_with_0():
    command = [sys.executable, "-m", "boxtune", "serve", "--model", "tiny:qwen2_vl", "--labels", "box", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--batch-size", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = int(re.search(r":(\d+)/detect", process.stdout.readline())[1])
        client = Client(port)
        picture = png(Image.effect_noise((200, 200), 90).convert("RGB"))
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(client.form, picture) for _ in range(4)]
            until(lambda: client.metric("boxtune_requests_in_flight") == 4)
            process.send_signal(signal.SIGTERM)
            answers = [one.result(60) for one in waiting]
        assert [one.status for one in answers] == [200] * 4
        until(lambda: refuses(client))
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        assert "Stopped; all that was taken in is answered." in out
    finally:
        process.kill()


def refuses(client: Client) -> bool:
    try:
        return client.get("/health").status == 503
    except ConnectionError:
        return True


def test_a_port_that_is_taken_and_a_host_that_is_open(cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = cli("serve", "--model", "tiny:qwen2_vl", "--port", taken.getsockname()[1])
    assert code == 2
    assert re.search(r"Cannot listen on 127\.0\.0\.1, port \d+ \(Address already in use\): ", err)
    assert "another --host or --port (0 takes a free one)" in err
    code, _, err = cli("serve", "--host", "0.0.0.0", "--port", "0", "--model", "nothing/here/at/all")
    assert code == 2
    assert "WARNING: 0.0.0.0 is open to other machines" in err


def test_a_package_that_is_missing(cli, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else found(name))
    code, _, err = cli("serve")
    assert (code, err) == (2, "boxtune: fastapi is not installed: pip install 'boxtune[serve]' brings it.\n")
