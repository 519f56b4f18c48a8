"""A service in this process and clients of it, by the standard library alone."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from PIL import Image

from boxtune.inference.detector import Detector
from boxtune.serve.listening import listen
from boxtune.serve.service import ServeOptions, build_service


@dataclass
class Answer:
    """Of a request."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks the service at a port."""

    port: int

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.getheaders()))
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def form(self, content: bytes | None, fields: dict[str, str] | None = None) -> Answer:
        body, kind = multipart(content, fields or {})
        return self.request("POST", "/detect", body, content_type=kind)

    def json(self, content: bytes | None, **fields: Any) -> Answer:
        image = {} if content is None else {"image": base64.b64encode(content).decode()}
        return self.request("POST", "/detect", json.dumps(image | fields).encode(), content_type="application/json")

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split()[0].partition("{")[0] == name)


def multipart(content: bytes | None, fields: dict[str, str]) -> tuple[bytes, str]:
    """A form's body and its content type."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
        for name, text in fields.items()
    ]
    if content is not None:
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="picture.png"\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + f"--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def running(detector: Detector, options: ServeOptions | None = None) -> Iterator[Client]:
    """A client of a service that runs in a thread."""
    app = build_service(detector, "taught", options or ServeOptions())
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Client(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


class HeldDetector(Detector):
    """Begins to answer when the gate is opened."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gate = threading.Event()
        self.num_asked = 0

    def predict(self, images: Any, *arguments: Any, **options: Any) -> Any:
        images = list(images)
        self.num_asked += len(images)
        assert self.gate.wait(60)
        return super().predict(images, *arguments, **options)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another thread."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)
