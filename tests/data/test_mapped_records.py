from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxtune.data.columns import record_columns
from boxtune.data.mapped_records import MappedRecords, RecordFile, write_records
from boxtune.data.records import Record
from boxtune.detections import Detections

# half of a surrogate pair is what JSON may hold, and what stands for a byte that is no UTF-8 in the name of a file
TEXTS = st.text(st.characters(exclude_characters="\0"), max_size=8)
BOXES = st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 1e4)), max_size=3)


@st.composite
def made_records(draw, path):
    found = []
    for _ in range(draw(st.integers(0, 7))):
        boxes = [(x, y, x + w, y + h) for x, y, w, h in draw(BOXES)]
        labels = [draw(TEXTS) for _ in boxes]
        size = draw(st.tuples(st.integers(1, 60_000), st.integers(1, 60_000)))
        image = path / (draw(st.text("ab \udce9é", min_size=1, max_size=5)) + ".jpg")
        found.append(Record(draw(TEXTS), image, size, Detections(boxes, labels), draw(TEXTS)))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_written_comes_back(folder, data):
    parts = [data.draw(made_records(folder)) for _ in range(2)]
    files = []
    for number, part in enumerate(parts):
        path = folder / f"{number}.arrow"
        files.append(RecordFile(path, write_records(path, part), prefix=("", "val/")[number]))
    expected = [*parts[0], *(prefixed(record) for record in parts[1])]
    mapped = MappedRecords(files)
    assert list(mapped) == expected
    assert_columns(mapped, expected)
    order = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=9)) if expected else []
    chosen = mapped.select(np.array(order, dtype=np.int64))
    assert list(chosen) == [expected[place] for place in order]
    assert_columns(chosen, [expected[place] for place in order])
    doubled = MappedRecords.joined([chosen, mapped, chosen])
    assert list(doubled) == [*chosen, *mapped, *chosen]


def prefixed(record):
    return Record("val/" + record.id, record.image, record.image_hw, record.detections, record.source)


def assert_columns(mapped, records):
    one, other = [list(record_columns(each)) for each in (mapped, records)]
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.ids == b.ids
        assert a.box_labels == b.box_labels
        for name in ("image_hw", "num_boxes", "xyxy"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        assert list(a.detections) == [record.detections for record in records]


def test_batches_of_a_file_are_one_sequence(folder):
    boxes = Detections([[1, 2, 3, 4]], ["cat"])
    records = [Record(str(i), folder / "a.jpg", (i + 1, 2), boxes, f"line {i}") for i in range(40_000)]
    path = folder / "many.arrow"
    mapped = MappedRecords([RecordFile(path, write_records(path, records))])
    assert len(mapped) == 40_000
    assert [mapped[place] for place in (0, 16_383, 16_384, 39_999, -1)] == [
        records[place] for place in (0, 16_383, 16_384, 39_999, -1)
    ]
    for place in (40_000, -40_001):
        with pytest.raises(IndexError):
            mapped[place]
    backwards = mapped[::-1]
    assert [image_id for batch in record_columns(backwards) for image_id in batch.ids] == [r.id for r in records[::-1]]
    assert mapped.select(np.zeros(0, dtype=np.int64))[:3]._order.size == 0


def test_what_is_mapped_takes_little_memory(folder):
    """200 000 records; a list of them takes some 300 MB."""
    boxes = [Detections([[1, 2, 3, 4]] * count, ["cat"] * count) for count in range(4)]
    made = (Record(f"image {i}", folder / f"{i}.jpg", (30, 40), boxes[i % 4], f"line {i}") for i in range(200_000))
    path = folder / "large.arrow"
    write_records(path, made)
    code = """if True:
        import sys, tracemalloc
        from pathlib import Path
        from boxtune.data.mapped_records import MappedRecords, RecordFile

        def own_kib():
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            return int(lines["RssAnon"].split()[0])

        on_linux = sys.platform == "linux"
        before = own_kib() if on_linux else 0
        tracemalloc.start()
        records = MappedRecords([RecordFile(Path(sys.argv[1]), ("cat",))])
        for position in range(0, len(records), 5):
            records[position]
        print(len(records), tracemalloc.get_traced_memory()[1], own_kib() - before if on_linux else 0)
        assert "pandas" not in sys.modules
    """
    output = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    num_records, traced_bytes, more_kib = map(int, output.stdout.split())
    assert num_records == 200_000
    assert traced_bytes < 3_000_000
    assert more_kib < 30_000
