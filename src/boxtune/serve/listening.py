"""A socket, and a server on it that ends when it is asked to: what waits is answered before."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from boxtune.errors import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: name or address; `127.0.0.1` is reached from this machine alone.
        port: 0 takes a free one.

    Raises:
        ConfigError: the port is taken or forbidden, or there is no such host.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # socket names the address once more
        remedy = "choose another --host or --port (0 takes a free one)"
        raise ConfigError(f"Cannot listen on {host}, port {port} ({reason}): {remedy}.") from None


def address_of(listening: socket.socket) -> str:
    """`http://127.0.0.1:8000`, as a browser wants it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a name or address is that of this machine for itself alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def warning_of_host(host: str) -> str | None:
    """A sentence where others than this machine can come in."""
    if is_loopback(host):
        return None
    return (
        f"WARNING: {host} is open to other machines. There is no password and no encryption: whoever reaches this port "
        "can use the model and see what it is given. Put a proxy with both before it, or use --host 127.0.0.1."
    )


class _Server(uvicorn.Server):
    """Says when it was asked to stop, before it stops."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        super().handle_exit(sig, frame)


def run_until_stopped(
    app: Any,
    listening: socket.socket,
    *,
    on_stop: Callable[[], None] = lambda: None,
    max_seconds_to_stop: float | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; returns when what was begun is answered. A second Ctrl-C waits for nothing.

    Args:
        app: an ASGI application.
        listening: of `listen`; closed at the end.
        on_stop: called in the signal handler, so it must not wait.
        max_seconds_to_stop: requests that take longer to end are cut off.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=None if max_seconds_to_stop is None else round(max_seconds_to_stop),
    )
    server = _Server(config, on_stop)
    # uvicorn raises the signal again when it is done, which would end the process with its number and not with 0
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
