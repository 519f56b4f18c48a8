"""A hostile data set through every command that writes a page: the page stays text, and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

import boxtune
from evaluation.hostile import HOSTILE, Outline

FILE = "<img src=x onerror=alert(1)>\"'&.png"
TEMPLATES = sorted(Path(boxtune.__file__).parent.rglob("*.html"))


@pytest.fixture
def data(tmp_path) -> Path:
    """Folder, file, id and labels are all markup."""
    folder = tmp_path / "a<b onload=x>&'\"{{7*7}}"
    folder.mkdir()
    rows = []
    for number in range(4):
        name = f"{number}{FILE}"
        Image.new("RGB", (90, 80), (60 * number, 90, 120)).save(folder / name)
        objects = [
            {"bbox_xyxy_px": [5, 5, 50, 60], "label": HOSTILE},
            {"bbox_xyxy_px": [20, 20, 80, 70], "label": "</title></svg><svg onload=alert(2)>"},
        ]
        rows.append({"image": name, "id": f"{number}{HOSTILE}", "objects": objects})
    for split in ("train", "val"):
        some = rows[:2] if split == "train" else rows[2:]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


class Page(Outline):
    """Drawings may hold words in their shapes, so only what closes itself is left out of what must be closed."""

    VOID = ("meta", "img", "input", "br", "hr", "col")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()


def check_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    outline = Page(text)
    assert outline.open == []
    assert outline.handlers == []
    assert text.count("<script") == outline.tags.count("script") <= 1
    assert not {"img", "iframe", "object", "embed", "base", "form", "link", "foreignobject"} & set(outline.tags)
    assert all(link.startswith(("data:image/", "#")) for link in outline.links)
    assert "49" not in re.findall(r"7\*7|\b49\b(?=[}\"'&])", text)
    assert "default-src 'none'" in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "&lt;script&gt;" in text


def test_pages_of_a_hostile_data_set_are_text(data, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("inspect", "data", "--data", data, "--output-dir", "sheet")
    assert code == 0, err
    for name in ("one", "<b>two</b>"):
        code, _, err = cli("evaluate", "--model", "tiny:qwen2_vl", "--data", data, "--output-dir", name)
        assert code == 0, err
    code, _, err = cli(
        "compare", "--annotations", "one/ground_truth.json", "--predictions",
        "one/predictions.json,<b>two</b>/predictions.json", "--output-dir", "compared",
    )  # fmt: skip
    assert code == 0, err
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) == 4
    for page in pages:
        check_page(page)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_templates_escape_everything(template):
    """No `|safe`, no block without escaping, nothing of a page's variables inside a script or style."""
    text = template.read_text(encoding="utf-8")
    constants = re.sub(r'"(?:\\.|[^"\\])*"\s*\|\s*safe\b', "", text)
    assert not re.search(r"\|\s*safe\b|autoescape\s+false|Markup", constants)
    for inside in re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL):
        assert inside.strip() in ("", "{{ script }}")
    assert not re.search(r"\son\w+\s*=", text)
    assert not re.search(r"<[a-z][^<>]*\s[\w-]+=\{\{", text)  # a value in an attribute stands in quotes


def test_the_control_tells_a_broken_page(tmp_path):
    good = "<meta content=\"default-src 'none'\"><p>&lt;script&gt;</p>"
    (tmp_path / "a.html").write_text(f"{good}<svg onload=alert(1)></svg><script></script>")
    with pytest.raises(AssertionError):
        check_page(tmp_path / "a.html")
