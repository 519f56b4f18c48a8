"""Picture files: which are found, what their headers tell, what is said of those that cannot be read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from boxtune.data.records import SkippedRecord
from boxtune.errors import DataError
from boxtune.inference.pictures import (
    find_images,
    left_out,
    look_at_headers,
    open_picture,
    passed_by,
    readable_images,
    refuse,
    write_left_out,
)
from inference.test_predict import photo


def cut(path: Path) -> Path:
    """A JPEG that ends in its middle."""
    photo(path)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def torn(path: Path) -> Path:
    """A PNG whose header and end are right, and whose pixels are not."""
    photo(path, size=(64, 64))
    content = path.read_bytes()
    begin = content.index(b"IDAT") + 4
    length = int.from_bytes(content[begin - 8 : begin - 4])
    path.write_bytes(content[:begin] + b"\0" * length + content[begin + length :])
    return path


def test_find_images(tmp_path):
    photo(tmp_path / "b" / "2.png")
    photo(tmp_path / "a" / "1.JPG")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["1.JPG", "2.png"]
    assert passed_by(tmp_path) is None
    (tmp_path / "b" / "3.HEIC").write_bytes(b"of a telephone")
    (tmp_path / "4.nef").write_bytes(b"of a camera")
    said = r"Not looked at in .*: 1 \.heic, 1 \.nef\. Save them as JPEG"
    assert re.match(said, passed_by(tmp_path))
    (tmp_path / "b" / "2.png").unlink()
    with pytest.raises(DataError, match=r"No picture in .*b: looked for .*\. Not looked at in .*b: 1 \.heic"):
        find_images(tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"No picture in .*empty"):
        find_images(tmp_path / "empty")
    with pytest.raises(DataError, match=r"No picture or folder at .*--image"):
        find_images(tmp_path / "nowhere")


def test_a_name_that_is_not_utf8_is_refused_before_any_work(tmp_path):
    path = photo(tmp_path / "in" / os.fsdecode(b"caf\xe9.png"))
    photo(tmp_path / "in" / "a.png")
    for asked in (path, tmp_path / "in"):
        with pytest.raises(DataError, match=r"caf\\udce9.png' is not UTF-8: rename the picture"):
            find_images(asked)


def test_names_and_links_that_lead_nowhere_are_left_out_by_name(tmp_path):
    good = photo(tmp_path / "in" / "a.png")
    nameless = photo(tmp_path / "in" / os.fsdecode(b"caf\xe9.png"))
    (tmp_path / "in" / "30.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "folder.png").mkdir()
    paths, bad = readable_images(tmp_path / "in", "skip")
    assert paths == [good]
    assert [Path(picture.source) for picture in bad] == [tmp_path / "in" / "30.png", nameless]
    write_left_out(tmp_path, bad)
    said = [json.loads(line)["reason"] for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert "does not exist" in said[0]
    assert "is not UTF-8: rename" in said[1]
    with pytest.raises(DataError, match=r"2 of 3 pictures cannot be read.*--on-error skip"):
        readable_images(tmp_path / "in", "refuse")


def test_what_headers_tell_and_what_not(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    paths = [
        tmp_path / "gone.png",
        photo(tmp_path / "a.png"),
        cut(tmp_path / "cut.jpg"),
        photo(tmp_path / "long.png", size=(200, 1), red=(0, 0, 1, 1)),
        photo(tmp_path / "longer.png", size=(201, 1), red=(0, 0, 1, 1)),
        torn(tmp_path / "torn.png"),
        tmp_path / "text.png",
    ]
    with pytest.raises(DataError, match=r"torn\.png.*cannot be decoded"):
        open_picture(paths[5])
    bad = look_at_headers(paths)  # decodes no pixel, so says nothing of the torn one
    assert bad == look_at_headers([str(path) for path in paths])
    assert [(one.id, one.source) for one in bad] == [(str(paths[n]), str(paths[n])) for n in (0, 2, 4, 6)]
    for one, said in zip(bad, ("does not exist", "was cut short", "no image of 201×1 px", "is no image"), strict=True):
        assert said in one.reason


def test_several_processes_each_look_at_a_part(tmp_path, monkeypatch):
    """Each gives what it sees of its own share; together that is what one process sees."""
    paths = [photo(tmp_path / f"{n:03d}.png", size=(20, 20)) for n in range(140)]
    for place in (0, 63, 64, 139):
        paths[place].write_text("no picture")
    shares = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr("boxtune.processes.of_all", lambda work: [shares.append(work()), []][1:])
        look_at_headers(paths, shared=True)
    assert [[place for place, _ in share] for share in shares] == [[0, 63, 139], [64]]
    monkeypatch.setattr("boxtune.processes.of_all", lambda _: shares)
    assert look_at_headers(paths, shared=True) == look_at_headers(paths)


BAD = [SkippedRecord(f"{n}.png", f"Image '{n}.png' is bad. Replace it.", f"{n}.png") for n in range(5)]


@pytest.mark.parametrize(
    ("num_bad", "num_pictures", "said"),
    [
        (1, 1, r"^Image '0\.png' is bad\. Replace it\.$"),
        (
            1,
            9,
            r"^1 of 9 pictures cannot be read: Image '0\.png' .* it\. Or leave such pictures out: --on-error skip\.$",
        ),
        (5, 9, r"^5 of 9 pictures cannot be read: .*'0\.png'.*'2\.png' is bad\. Replace it\. And 2 more\. Or leave"),
        (5, 5, r"^None of 5 pictures can be read: .* And 2 more\.$"),
    ],
)
def test_the_first_bad_pictures_are_named(num_bad, num_pictures, said):
    with pytest.raises(DataError, match=said):
        refuse(BAD[:num_bad], num_pictures)


def test_nothing_bad_nothing_refused():
    refuse([], 3)


def test_the_list_of_what_was_left_out(tmp_path):
    bad = [left_out(f"in/{name}", DataError(f"{name} is bad.")) for name in ("b/1.png", "b.png", "a.png", "b/c/2.png")]
    write_left_out(tmp_path, bad)
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["in/a.png", "in/b/1.png", "in/b/c/2.png", "in/b.png"]  # as found in a folder
    assert rows[0] == {"id": "in/a.png", "source": "in/a.png", "reason": "a.png is bad."}


def test_readable_images(tmp_path):
    good = [photo(tmp_path / f"{name}.png") for name in "ac"]
    (tmp_path / "b.png").write_text("no picture")
    paths, bad = readable_images(tmp_path, "skip")
    assert (paths, [one.id for one in bad]) == (good, [str(tmp_path / "b.png")])
    with pytest.raises(DataError, match="1 of 3 pictures cannot be read"):
        readable_images(tmp_path, "refuse")
    for path in good:
        path.unlink()
    with pytest.raises(DataError, match=r"b\.png' is no image"):
        readable_images(tmp_path, "skip")


def test_what_is_wrong_is_said_before_torch_is_imported(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    script = (
        "import sys; from boxtune.cli import main\n"
        f"sys.argv = ['boxtune', 'predict', '--model', 'x', '--image', {str(tmp_path)!r}, '--output-dir', 'o']\n"
        "try: main.run()\n"
        "except SystemExit as end: sys.exit(end.code + 10 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "a.png' is no image" in done.stderr
