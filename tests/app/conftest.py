"""A page of a small model that knows its pictures, a data set and runs whose names would be markup if they were let."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from boxtune.app.asking import Models
from boxtune.app.catalogue import Catalogue
from boxtune.app.handlers import Handlers
from boxtune.app.site import build_site
from boxtune.data.dataset import load_dataset
from boxtune.errors import ModelError
from boxtune.inference.detector import Detector
from boxtune.inference.uploads import UploadLimits
from boxtune.serve.listening import listen
from collators.conversations import LABELS
from serve.conftest import taught  # noqa: F401  (a fixture)
from serve.running import Client
from training.runs import write_coco

MARKUP = "<img src=x onerror=\"document.title='broken into'\">{{ 7 * 7 }}${7 * 7}"
BROKEN = "<img src=x onerror=document.title='broken into'>"


@pytest.fixture
def loaded(taught) -> Callable[[str], Detector]:  # noqa: F811
    """Whatever the name, the model that knows its pictures, but for the name that is markup."""

    def load(name: str) -> Detector:
        if BROKEN in name:
            raise ModelError(f"{name} is broken.")
        return Detector(taught, labels=LABELS, max_new_tokens=120)

    return load


def make_run(folder: Path, report: str | None = None) -> Path:
    """Enough of a run for it to be found."""
    folder.mkdir(parents=True)
    (folder / "boxtune.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    if report is not None:
        (folder / "report.html").write_text(report)
    return folder


@pytest.fixture
def handlers(tmp_path, loaded) -> Handlers:
    runs = tmp_path / "runs"
    make_run(
        runs / "one", "<!doctype html><title>one</title><h1>Report of one</h1><script>document.title = 'ran'</script>"
    )
    make_run(runs / BROKEN)
    (runs / "one" / "checkpoint-1").mkdir()
    make_run(runs / "one" / "checkpoint-1" / "model")
    (runs / "away").symlink_to("/etc")
    make_run(runs / "linked")
    (tmp_path / "secret.html").write_text("secret")
    (runs / "linked" / "report.html").symlink_to(tmp_path / "secret.html")
    dataset = load_dataset(str(write_coco(tmp_path / "data", 15, labels=("box", MARKUP))))
    folder = tmp_path / "of-the-app"
    folder.mkdir()
    catalogue = Catalogue(("tiny:qwen2_vl",), runs)
    return Handlers(catalogue, Models(loaded), dataset, UploadLimits(200_000, 1_000_000), folder)


@contextmanager
def running_site(handlers: Handlers) -> Iterator[Client]:
    """A client of the page, which runs in a thread."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(build_site(handlers, "127.0.0.1"), log_level="warning", access_log=False)
    config.timeout_graceful_shutdown = 2
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Client(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def called(client: Client, name: str, *data: Any, session: str = "test") -> dict[str, Any]:
    """What the page's own way of calling a function by its number ends in."""
    functions = client.get("/config").json["dependencies"]
    number = next(one["id"] for one in functions if one["api_name"] == name)
    asked = {"data": list(data), "fn_index": number, "session_hash": session}
    joined = client.request(
        "POST", "/gradio_api/queue/join", json.dumps(asked).encode(), content_type="application/json"
    )
    if joined.status != 200:
        return {"success": False, "status": joined.status}
    told = client.get(f"/gradio_api/queue/data?session_hash={session}").body.decode()
    events = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: ")]
    return next(event for event in events if event["msg"] == "process_completed")
