"""The page from outside: which files are served, who may ask, what comes from elsewhere."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from app.conftest import called, running_site
from serve.running import Client, png

ROOT = Path(__file__).resolve().parents[2]


def upload(client: Client, content: bytes, name: str = "photo.png"):
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    return client.request("POST", "/gradio_api/upload", body, content_type=f"multipart/form-data; boundary={mark}")


def as_photo(path: str) -> list[dict]:
    return [{"image": {"path": path, "meta": {"_type": "gradio.FileData"}}, "caption": None}]


@pytest.fixture
def client(handlers):
    with running_site(handlers) as client:
        yield client


def test_uploads_are_served_and_nothing_else(client, handlers, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # where Gradio once served everything from
    (path,) = upload(client, png(Image.new("RGB", (30, 20)))).json
    assert Path(path).is_relative_to(handlers.folder)
    assert client.get(f"/gradio_api/file={quote(path)}").status == 200
    other = tmp_path / "data" / "annotations.json"
    assert other.is_file()
    up = "../" * 12
    tries = [
        "/etc/passwd",
        str(ROOT / "pyproject.toml"),
        "pyproject.toml",
        str(other),
        str(handlers.catalogue.runs / "one" / "report.html"),
        f"{handlers.folder}/{up}etc/passwd",
        f"{handlers.folder}/..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        f"{up}etc/passwd",
        "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1/x",
        "https://example.org/x",
        "//etc/passwd",
        "~/.bashrc",
    ]
    for one in tries:
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"):
            told = client.get(route + quote(one, safe="/:%.~"))
            assert told.status in (400, 403, 404), (route, one, told.status, told.body[:100])
    assert client.get("/gradio_api/proxy=https://example.org/").status == 403


def test_a_link_in_the_folder_of_uploads_leads_nowhere(client, handlers):
    (handlers.folder / "out").symlink_to("/etc")
    assert client.get(f"/gradio_api/file={handlers.folder}/out/passwd").status == 403


def test_a_photo_that_was_not_uploaded_is_refused(client, handlers, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(Image.new("RGB", (5, 5))))
    for path in (str(secret), "/etc/passwd", f"{handlers.folder}/../secret.png", "http://127.0.0.1:1/x.png"):
        assert not called(client, "take_photos", as_photo(path))["success"], path
        hidden = {"path": path, "meta": {"_type": "gradio.FileData"}}  # a file where a text is asked for
        assert not called(client, "find", [], "tiny:qwen2_vl", "text", "", "text", hidden, 0.3)["success"]
        assert not called(client, "report", hidden)["success"]
    assert [file for file in handlers.folder.rglob("*") if file.is_file()] == []
    (path,) = upload(client, png(Image.new("RGB", (30, 20)))).json
    done = called(client, "take_photos", as_photo(path))
    assert (done["success"], done["output"]["data"][-1]) == (True, "1 photo chosen.")


def test_models_and_reports_outside_the_lists_are_refused(client):
    for name in ("/etc", "../one", "embedded", "openfoodfacts/some-model"):
        told = called(client, "decoders", name)
        assert not told["success"]
        assert not called(client, "report", name)["success"]


def test_reports_are_served_by_name_and_locked_in(client, handlers):
    run = handlers.catalogue.runs / "one"
    told = client.get(f"/reports?run={quote(str(run))}")
    assert told.status == 200
    assert b"Report of one" in told.body
    policy = told.headers["content-security-policy"]
    assert "sandbox allow-scripts;" in policy
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    for name in ("/etc", f"{run}/../one", f"{run}/", f"{run}/checkpoint-1", str(run.parent / "linked"), "", "../.."):
        assert client.get(f"/reports?run={quote(name)}").status == 404, name
    assert client.get("/reports").status == 422


def test_other_hosts_names_are_refused(client):
    assert client.request("GET", "/config", host="example.org").status == 400
    assert client.request("GET", "/config", host=f"localhost:{client.port}").status == 200


def test_uploads_have_a_limit(client, handlers):
    large = upload(client, bytes(300_000))
    assert large.status in (400, 413)
    assert not any(file.stat().st_size > 200_000 for file in handlers.folder.rglob("*") if file.is_file())
    (path,) = upload(client, png(Image.new("1", (2000, 2000)))).json
    assert not called(client, "take_photos", as_photo(path))["success"]


def test_nothing_is_told_to_others(client):
    config = client.get("/config").json
    assert len(config["dependencies"]) > 10
    assert config["analytics_enabled"] is False
    assert config["enable_queue"] is True
    assert all(one["api_visibility"] == "private" for one in config["dependencies"])
    assert client.get("/gradio_api/info").json["named_endpoints"] == {}
    for page in ("/docs", "/openapi.json", "/redoc", "/gradio_api/docs"):
        assert client.get(page).status == 404, page


def test_the_page_and_its_style_load_nothing_from_elsewhere(client):
    page = client.get("/")
    text = page.body.decode() + client.get("/theme.css").body.decode()
    loaded = re.findall(r"""(?:src|href)=["'](https?:)?//([^"']+)|url\(["']?(https?:)?//|@import""", text)
    assert [one for one in loaded if "127.0.0.1" not in one[1]] == []
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"


def test_session_state_cannot_be_given_from_outside(client):
    """`find` reads what is chosen from the server's own memory, whatever a client sends in its place."""
    names = json.loads(client.get("/config").body)["dependencies"]
    assert next(one for one in names if one["api_name"] == "find")
    told = called(client, "find", ["/etc/passwd"], "tiny:qwen2_vl", "text", "", "text", "", 0.3)
    assert not told["success"]
    assert "No picture is chosen" in str(told["output"])
