"""A hub that cannot be reached, or that takes the call and says nothing: one line within seconds."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from boxtune import hub
from boxtune.data.dataset import available_splits
from boxtune.errors import BoxtuneError
from boxtune.models.load import check_model, load_model

NAME = "somebody/a-name-that-nobody-has-fetched"
SAID = "the hub cannot be reached, nor is it in the cache here. Where there is a network `hf download somebody/a-name"


@pytest.fixture(params=["silent", "refusing"])
def endpoint(request, monkeypatch) -> Iterator[None]:
    """Somebody who takes calls and never answers; or nobody."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen(100)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub.answers.cache_clear()
        yield
    hub.answers.cache_clear()


@pytest.mark.parametrize("ask", [check_model, load_model, available_splits])
def test_one_line_within_seconds(ask, endpoint):
    """Left alone, the libraries try for 40 seconds where nobody is there, and for minutes where nobody speaks."""
    began = time.monotonic()
    with pytest.raises(BoxtuneError) as caught:
        ask(NAME)
    assert SAID in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 20
    began = time.monotonic()
    with pytest.raises(BoxtuneError):
        ask(NAME)  # asked once
    assert time.monotonic() - began < 4


def test_a_hub_that_answers(monkeypatch):
    """Whatever it answers: a name that it does not have is another matter."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub.answers.cache_clear()
        assert hub.answers()
        server.shutdown()
    hub.answers.cache_clear()
