"""A detector over a data set, with a detector whose answers are known."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from boxtune.data.dataset import DetectionDataset
from boxtune.data.records import Record
from boxtune.detections import Detections
from boxtune.errors import DataError, SaveError
from boxtune.evaluation.coco import score_files
from boxtune.evaluation.evaluate import check_labels, evaluate, open_judged, write_evaluation
from boxtune.grounding.codec import DecodeResult
from boxtune.inference.detector import Prediction

SIZE_HW = (120, 160)


@dataclass(frozen=True)
class Plain:
    number: int

    def load(self) -> Image.Image:
        return Image.new("RGB", SIZE_HW[::-1], (self.number, 0, 0))  # the picture says which one it is


@dataclass
class Fake:
    """Gives what it was told, whatever it sees."""

    answers: Sequence[Prediction]
    labels: tuple[str, ...] = ()
    asked: list = field(default_factory=list)

    def predict(self, images: Iterable[Image.Image], labels: Sequence[str] | None = None) -> Iterator[Prediction]:
        self.asked.append(labels)
        batch = []
        for image in images:  # reads ahead, as batches do
            batch.append(image.getpixel((0, 0))[0])
            if len(batch) == 2:
                yield from (self.answers[number] for number in batch)
                batch = []
        yield from (self.answers[number] for number in batch)


@pytest.fixture
def samples() -> DetectionDataset:
    noise = np.random.default_rng(4)
    records = []
    for number in range(5):
        corners = noise.uniform(0, 70, (number, 2))
        boxes = np.hstack([corners, corners + noise.uniform(10, 50, (number, 2))])
        truth = Detections(boxes, [("cat", "dog")[i % 2] for i in range(number)])
        records.append(Record(f"photo {number}.jpg", Plain(number), SIZE_HW, truth, f"row {number}"))
    return DetectionDataset(records, ("cat", "dog"), "fake")


def answer(detections: Detections, status="ok", truncated=False) -> Prediction:
    return Prediction(DecodeResult(status, detections, "" if status == "ok" else "why"), 'text "…"\n', truncated)


def perfect(samples) -> list[Prediction]:
    return [answer(r.detections.with_scores([0.9] * len(r.detections))) for r in samples.records]


def test_perfect(samples):
    metrics = evaluate(Fake(perfect(samples)), samples)
    assert (metrics.map, metrics.map50, metrics.map75, metrics.mean_iou, metrics.f1_50) == (1, 1, 1, 1, 1)
    assert (metrics.num_images, metrics.num_boxes, metrics.parse_rate) == (5, 10, 1)


def test_nothing_found(samples):
    metrics = evaluate(Fake([answer(Detections.empty().with_scores([]))] * 5), samples)
    assert (metrics.map, metrics.mean_iou, metrics.recall50, metrics.num_predictions) == (0, None, 0, 0)
    assert metrics.parse_rate == 1


def test_answers_that_cannot_be_read_count(samples):
    answers = perfect(samples)
    answers[4] = answer(Detections.empty().with_scores([]), "malformed", truncated=True)
    metrics = evaluate(Fake(answers), samples)
    assert metrics.parse_rate == 0.8
    assert metrics.truncated_rate == 0.2
    assert metrics.recall50 == 0.6


def test_answers_stay_with_their_images(samples):
    """With the answers of another image the boxes fit nothing."""
    shifted = [*perfect(samples)[1:], perfect(samples)[0]]
    assert evaluate(Fake(shifted), samples).map50 < 0.5


def test_written_files_score_the_same(samples, tmp_path):
    noise = np.random.default_rng(1)
    answers = []
    for record in samples.records:
        moved = record.detections.xyxy + noise.normal(0, 3, (len(record.detections), 4))
        found = Detections(moved, record.detections.labels, noise.random(len(moved))).clipped(SIZE_HW)
        answers.append(answer(found, "repaired"))
    console = Console(file=io.StringIO())
    evaluation = evaluate(Fake(answers, ("dog", "cat")), samples, console=console, details=True)
    write_evaluation(tmp_path / "new" / "o", evaluation)
    folder = tmp_path / "new" / "o"
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures == evaluation.metrics.to_dict()
    assert 0 < figures["map"] < 1
    again = score_files(folder / "ground_truth.json", folder / "predictions.json").to_dict()
    for name in ("map", "map50", "map75", "ar100", "per_class", "num_images", "num_boxes"):
        assert again[name] == figures[name], name
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [record.id for record in samples.records]
    assert rows[0] == {"id": "photo 0.jpg", "status": "repaired", "reason": "why", "text": 'text "…"\n'}


def test_the_truth_names_the_files(samples, tmp_path):
    """For tools that look for the pictures; an image that is no file keeps its id there."""
    path = tmp_path / "pictures" / "a.png"
    path.parent.mkdir()
    samples.records[1].open_image().save(path)
    records = [samples.records[0], replace(samples.records[1], id="17", image=path)]
    answers = Fake(perfect(samples))
    write_evaluation(tmp_path / "o", evaluate(answers, replace(samples, records=records), details=True))
    truth = json.loads((tmp_path / "o" / "ground_truth.json").read_text())
    assert [image["file_name"] for image in truth["images"]] == ["photo 0.jpg", "a.png"]


def test_a_set_without_val_names_the_split_to_ask_for(tmp_path):
    path = tmp_path / "train.json"
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": 9, "height": 9}
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    with pytest.raises(DataError, match=r"no split 'val'; name another with --split train .* metrics\.json") as caught:
        open_judged(str(tmp_path))
    assert "held out" in str(caught.value)
    assert len(open_judged(str(tmp_path), "train")) == 1
    path.rename(tmp_path / "test.json")
    with pytest.raises(DataError, match=r"no split 'val'; name another with --split test\.$"):
        open_judged(str(tmp_path))


@pytest.mark.parametrize(("own", "asked"), [((), ("cat", "dog")), (("dog", "cat", "cow"), ("dog", "cat", "cow"))])
def test_labels_that_are_asked_for(own, asked, samples):
    detector = Fake(perfect(samples), own)
    evaluate(detector, samples)
    assert detector.asked == [asked]


def test_candidates_count_where_scores_decide(samples, tmp_path):
    """A box that the answer left out is found by AP, in COCO's files too, and by nothing that counts found boxes."""
    found = perfect(samples)
    whole = found[4].result.detections
    short = answer(whole.select([0, 1, 2]))
    without, with_candidate = (
        evaluate(Fake([*found[:4], last]), samples, details=True)
        for last in (short, replace(short, candidates=whole.select([3]).with_scores([0.2])))
    )
    assert without.metrics.map < 0.96
    assert with_candidate.metrics.map == 1
    assert with_candidate.metrics.num_candidates == 1
    for name in ("mean_iou", "detection_rate50", "recall50", "precision50", "count_error", "num_predictions"):
        assert getattr(with_candidate.metrics, name) == getattr(without.metrics, name), name
    assert with_candidate.metrics.intervals.figures["map"].high == 1
    write_evaluation(tmp_path / "out", with_candidate)
    again = score_files(tmp_path / "out" / "ground_truth.json", tmp_path / "out" / "predictions.json")
    for name in ("map", "map50", "mean_iou", "count_error", "num_predictions", "num_candidates", "errors"):
        assert getattr(again, name) == getattr(with_candidate.metrics, name), name


def test_labels_that_do_not_meet_are_refused(samples):
    detector = Fake(perfect(samples), ("box", "table"))
    with pytest.raises(DataError, match=r"None of the data set's labels \(cat, dog\).*\(box, table\).*--labels"):
        evaluate(detector, samples)
    assert detector.asked == []


def test_labels_that_are_missing_in_part_are_told(samples):
    said = io.StringIO()
    metrics = evaluate(Fake(perfect(samples), ("cat",)), samples, console=Console(file=said, width=200))
    assert "not asked for dog" in said.getvalue()
    assert metrics.num_boxes == 10
    check_labels(("cat",), [object()])  # a sequence without records: nothing is known


def test_too_few_answers_are_no_figure(samples):
    class Lost(Fake):
        def predict(self, images, labels=None):
            yield from list(super().predict(images, labels))[:-1]

    with pytest.raises(DataError, match="4 answers for 5 images"):
        evaluate(Lost(perfect(samples)), samples)


def test_a_place_that_cannot_be_written(samples, tmp_path):
    (tmp_path / "file").touch()
    evaluation = evaluate(Fake(perfect(samples)), samples, details=True)
    with pytest.raises(SaveError, match=r"cannot be written.*Choose another"):
        write_evaluation(tmp_path / "file", evaluation)
