"""A detector over picture files: drawn boxes, and one predictions.json."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from boxtune import processes
from boxtune.console import say
from boxtune.data.dataset import OnError
from boxtune.data.records import SkippedRecord
from boxtune.detections import Detections, xyxy_to_xywh
from boxtune.errors import DataError, SaveError
from boxtune.inference.coco_dataset import COCO_FILE, FoundPicture, write_coco_dataset
from boxtune.inference.draw import draw_detections
from boxtune.inference.pictures import HOW_TO_GO_ON, left_out, name_in, open_picture, refuse, write_left_out
from boxtune.inference.prediction import AnyDetector


@dataclass(frozen=True)
class Predicted:
    """What a command has found in pictures.

    Attributes:
        num_boxes, num_pictures: found, and looked at.
        bad: pictures that were left out.
    """

    num_boxes: int
    num_pictures: int
    bad: list[SkippedRecord]


def predict_images(
    detector: AnyDetector,
    paths: Sequence[Path],
    output_dir: Path,
    *,
    min_score: float = 0.0,
    console: Console | None = None,
    shared: bool = False,
    coco_root: Path | None = None,
    on_error: OnError = "refuse",
    bad: Sequence[SkippedRecord] = (),
) -> Predicted:
    """Write `NAME.jpg` with boxes for each picture, and `predictions.json`.

    predictions.json is a list of COCO results whose `image_id` is the file's path as given and which carry the label
    in words (`category`), since there is no data set that numbers them: `bbox` is [x, y, width, height] in pixels.
    Boxes that a detection head has named, alone or with the text, say so (`decoder`).

    Args:
        detector: asked for its own labels.
        paths: of the pictures.
        output_dir: is made where it is missing.
        min_score: boxes below are left out.
        console: shows progress there.
        shared: each process of the command looks at a part of the pictures and draws these, and the first one writes
            predictions.json; they must all call, and be able to talk (`boxtune.processes.joined`).
        coco_root: a folder that the pictures are in; then the same is written to `coco.json` too, a COCO data set whose
            file names begin there.
        on_error: what to do with a picture that cannot be read: `refuse` ends the work; `skip` leaves it out, and lists
            it in `skipped.jsonl`.
        bad: pictures that were left out before, for the same list.

    Raises:
        DataError: a picture cannot be read, or is too thin, with `refuse`; no picture is left.
        SaveError: the folder cannot be written.
        KeyboardInterrupt, SystemExit: one came in the middle; what was found by then is written.
    """
    own: Sequence[int] = range(len(paths))
    if shared:
        own = processes.own_share(len(paths), getattr(detector, "batch_size", 1))
    try:
        output_dir.mkdir(parents=True, exist_ok=True)

        seen: tuple[list[_Drawn], list[SkippedRecord]] = ([], [])

        def work() -> tuple[list[_Drawn], list[SkippedRecord]]:
            _draw(detector, paths, own, output_dir, min_score, console, on_error, *seen)
            return seen

        stop: BaseException | None = None
        try:
            parts = processes.of_all(work) if shared else [work()]
        except (KeyboardInterrupt, SystemExit) as error:
            if processes.count() > 1 or not seen[0]:
                raise
            parts, stop = [seen], error  # what was found is worth keeping
        drawn = sorted((one for part, _ in parts for one in part), key=lambda one: one.place)
        bad = [*bad, *(picture for _, part in parts for picture in part)]
        rows = [row for one in drawn for row in one.rows]
        if not shared or processes.is_first():
            if on_error == "skip":
                write_left_out(output_dir, bad)
            text = json.dumps(rows, indent=1, ensure_ascii=False)
            (output_dir / "predictions.json").write_text(text + "\n", encoding="utf-8")
            if coco_root is not None:
                found = [FoundPicture(name_in(coco_root, paths[one.place]), one.image_hw, one.boxes) for one in drawn]
                write_coco_dataset(output_dir / COCO_FILE, found, getattr(detector, "labels", ()))
    except OSError as error:
        raise SaveError(f"{output_dir} cannot be written: {error.strerror or error}.") from None
    if not drawn:
        refuse(bad, len(bad))
    if stop is not None:
        if console is not None:
            say(console, f"Stopped: {output_dir} holds what was found in {len(drawn)} of {len(paths)} pictures.")
        raise stop
    num_unread = sum(one.is_unread for one in drawn)
    if num_unread and console is not None:
        say(console, f"{num_unread} of {len(drawn)} answers could not be read and gave no box.")
    return Predicted(len(rows), len(drawn), bad)


@dataclass(frozen=True)
class _Drawn:
    """A picture that was looked at: its place among all, its size and boxes, its rows of predictions.json, whether the
    answer was no text of boxes.
    """

    place: int
    image_hw: tuple[int, int]
    boxes: Detections
    rows: list[dict[str, object]]
    is_unread: bool


def _draw(
    detector: AnyDetector,
    paths: Sequence[Path],
    own: Sequence[int],
    output_dir: Path,
    min_score: float,
    console: Console | None,
    on_error: OnError,
    drawn: list[_Drawn],
    bad: list[SkippedRecord],
) -> None:
    """Look at some of the pictures, and draw what is found; what was drawn and what was left out goes to the lists."""
    pending: deque[tuple[int, Image.Image]] = deque()

    def images() -> Iterator[Image.Image]:
        for place in own:
            try:
                image = open_picture(paths[place])
            except DataError as error:
                if on_error == "refuse":
                    hint = f" {HOW_TO_GO_ON} Begin again in another folder." if len(paths) > 1 else ""
                    raise DataError(f"{error}{hint}") from error
                bad.append(left_out(paths[place], error))
            else:
                pending.append((place, image))
                yield image

    quiet = console is None or not console.is_terminal
    found = track(detector.predict(images()), "predict", total=len(own), console=console, disable=quiet)
    names = drawn_names(paths)
    for prediction in found:
        place, image = pending.popleft()
        boxes = prediction.result.detections
        assert boxes.scores is not None
        boxes = boxes.select(boxes.scores >= min_score)
        draw_detections(image, boxes).save(output_dir / names[place], quality=92)
        rows = _result_rows(paths[place], boxes, getattr(detector, "decoder", "text"))
        image_hw = (image.height, image.width)
        drawn.append(_Drawn(place, image_hw, boxes, rows, not prediction.result.readable))


def drawn_names(paths: Sequence[Path]) -> list[str]:
    """A name for each drawn picture, no two alike: the stem, with the folder and a number where others share it."""
    stems = Counter(path.stem.casefold() for path in paths)  # some file systems know no capitals
    taken: set[str] = set()
    names = []
    for path in paths:
        twin = stems[path.stem.casefold()] > 1
        base = "_".join(path.with_suffix("").parts[-2:]) + path.suffix.replace(".", "_") if twin else path.stem
        name = next(
            name for name in (base, *(f"{base}_{n}" for n in range(2, len(paths) + 2))) if name.casefold() not in taken
        )
        taken.add(name.casefold())
        names.append(f"{name}.jpg")
    return names


def _result_rows(path: Path, boxes: Detections, decoder: str) -> list[dict[str, object]]:
    scores = boxes.scores if boxes.scores is not None else [1.0] * len(boxes)
    return [
        {
            "image_id": str(path),
            "category": label,
            "bbox": [round(float(value), 2) for value in xywh],
            "score": round(float(score), 4),
            **({} if decoder == "text" else {"decoder": decoder}),
        }
        for label, xywh, score in zip(boxes.labels, xyxy_to_xywh(boxes.xyxy), scores, strict=True)
    ]
