"""A stand-in of the hub: what huggingface_hub asks while it makes a repository and commits files, weights by LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What has come in.

    Attributes:
        token: of the only one who may write, and to `me/…` alone.
        repositories: name → visibility.
        files: name of the repository → name of the file → bytes, as committed.
        uploads: digest → bytes that came by LFS.
        asked: methods and paths, in order.
        fails: a part of a path → status that it is answered with.
    """

    token: str = "hf_secret_of_mine"
    address: str = ""
    repositories: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fails: dict[str, int] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes, may_write: bool) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if failure := next((status for part, status in self.fails.items() if part in path), None):
            return failure, {"error": "not today"}
        if method == "HEAD":
            return 200, {}
        if method == "PUT":
            self.uploads[path.rpartition("/")[2]] = body
            return 200, {}
        if not may_write:
            return 401, {"error": "Invalid username or password."}
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2]).removesuffix(".git").strip("/")
        match path:
            case "/api/repos/create":
                return self.create(json.loads(body))
            case "/api/validate-yaml":
                return 200, {"errors": [], "warnings": []}
            case _ if "/preupload/" in path:
                files = json.loads(body)["files"]
                mode = lambda file: "lfs" if file["path"].endswith(".safetensors") else "regular"  # noqa: E731
                rows = [{"path": file["path"], "uploadMode": mode(file), "shouldIgnore": False} for file in files]
                return 200, {"files": rows}
            case _ if path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                to = lambda one: {"upload": {"href": f"{self.address}/upload/{one['oid']}"}}  # noqa: E731
                return 200, {"objects": [{**one, "actions": to(one)} for one in objects]}
            case _ if "/commit/" in path:
                return self.commit(name, [json.loads(line) for line in body.splitlines()])
        return 404, {"error": f"nothing at {path}"}

    def create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if asked["organization"] != "me":
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        name = f"me/{asked['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
        self.repositories[name] = asked.get("visibility", "public")
        return 200, {"url": f"{self.address}/{name}"}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        found: dict[str, bytes] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                found[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found[value["path"]] = self.uploads[value["oid"]]
                assert hashlib.sha256(found[value["path"]]).hexdigest() == value["oid"]
        self.files.setdefault(name, {}).update(found)
        return 200, {"commitUrl": f"{self.address}/{name}/commit/{'a' * 40}", "commitOid": "a" * 40}


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """The hub at an address of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_all(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            may_write = self.headers.get("Authorization") == f"Bearer {hub.token}"
            status, content = hub.answer(self.command, self.path.partition("?")[0], body, may_write)
            text = b"" if self.command == "HEAD" else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_HEAD = handle_all

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
