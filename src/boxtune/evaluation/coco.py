"""Score COCO files against each other without a model: read, checked, and handed to the COCO evaluator as they are."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxtune.detections import Detections, xywh_to_xyxy
from boxtune.documents import DocumentError, RefusedError, parse_json
from boxtune.errors import DataError
from boxtune.evaluation.average_precision import average_precision
from boxtune.evaluation.intervals import NUM_RESAMPLES
from boxtune.evaluation.judged import JudgedImage
from boxtune.evaluation.metrics import Metrics, all_the_same, image_figures, precision_figures

Row = dict[str, Any]

_SHOWN = 3  # so many offenders are named in a message
_FARTHEST = 10**9  # keeps areas and unions exact enough to compare


@dataclass(frozen=True)
class ScoredFiles:
    """Figures of a pair of files, and the images behind them, in the order of their ids."""

    metrics: Metrics
    images: tuple[JudgedImage, ...]


def score_files(annotations: Path, predictions: Path, num_resamples: int = NUM_RESAMPLES) -> Metrics:
    """What pycocotools' `COCOeval` says of two files, and the other figures beside it.

    The annotations' own `area` and `iscrowd` are honoured (missing: width × height of the box, and no crowd). The one
    difference to pycocotools: it cannot match an annotation whose id is 0, and this can.

    Args:
        annotations: COCO annotations with `images`, `annotations` (`bbox` is [x, y, width, height] in pixels) and
            `categories`. Ids may be numbers or text.
        predictions: COCO results, a list of `image_id`, `category_id`, `bbox`, `score`; it may be empty. Entries with
            `"candidate": true` count for what goes by score only, as in `boxtune evaluate`.
        num_resamples: of the intervals' bootstrap; 0 leaves the intervals out.

    Raises:
        DataError: a file is missing, is no such file, or an entry of it is wrong; the message names the entry.
    """
    return read_scored(annotations, predictions, num_resamples).metrics


def read_scored(annotations: Path, predictions: Path, num_resamples: int = NUM_RESAMPLES) -> ScoredFiles:
    """As `score_files`, with the images."""
    truth = _checked_truth(_read_json(annotations, "--annotations"), annotations)
    results = _checked_results(_read_json(predictions, "--predictions"), predictions, truth)
    names = _category_names(truth["categories"])
    solid = [row for row in truth["annotations"] if not row["iscrowd"]]
    scores = [float(row["score"]) for row in results]
    in_range = all(0 <= score <= 1 for score in scores)
    images = _images(truth, results, names, scores if in_range else _in_order(scores))
    ap = average_precision(truth, results)
    metrics = Metrics(
        **precision_figures(ap, names, Counter(row["category_id"] for row in solid)),
        **image_figures(images, num_resamples=num_resamples, scored=in_range),
        parse_rate=None,
        repaired_rate=None,
        malformed_rate=None,
        truncated_rate=None,
        num_images=len(truth["images"]),
        num_boxes=len(solid),
        num_predictions=sum(not row["candidate"] for row in results),
        num_candidates=sum(row["candidate"] for row in results),
        num_unknown_label_predictions=0,
        score_source="file",
        scores_constant=all_the_same(scores),
    )
    return ScoredFiles(metrics, tuple(images))


def _in_order(scores: Sequence[float]) -> list[float]:
    """Numbers in 0–1 in the order of scores that are not (logits): enough to rank boxes by."""
    places = {score: place for place, score in enumerate(sorted(set(scores)), start=1)}
    return [places[score] / len(places) for score in scores]


def _images(
    truth: dict[str, Any], results: Sequence[Row], names: dict[int, str], scores: Sequence[float]
) -> list[JudgedImage]:
    true: defaultdict[int, list[Row]] = defaultdict(list)
    crowd: defaultdict[int, list[Row]] = defaultdict(list)
    found: defaultdict[tuple[int, bool], list[Row]] = defaultdict(list)
    of_found: defaultdict[tuple[int, bool], list[float]] = defaultdict(list)
    for row in truth["annotations"]:
        (crowd if row["iscrowd"] else true)[row["image_id"]].append(row)
    for row, score in zip(results, scores, strict=True):
        found[row["image_id"], row["candidate"]].append(row)
        of_found[row["image_id"], row["candidate"]].append(score)

    def boxes(image: int, candidate: bool) -> Detections:
        return _boxes(found[image, candidate], names).with_scores(of_found[image, candidate])

    return [
        JudgedImage(
            sample_id=str(image["file_id"]),
            truth=_boxes(true[image["id"]], names),
            predicted=boxes(image["id"], False),
            crowd=_boxes(crowd[image["id"]], names),
            candidates=boxes(image["id"], True),
        )
        for image in truth["images"]
    ]


def _boxes(rows: Sequence[Row], names: dict[int, str]) -> Detections:
    return Detections(xywh_to_xyxy([row["bbox"] for row in rows]), [names[row["category_id"]] for row in rows])


def _category_names(categories: Sequence[Row]) -> dict[int, str]:
    """Category number → its name, made unique by the file's id where two share one."""
    names = {row["id"]: str(row.get("name", row["file_id"])) for row in categories}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    return {
        row["id"]: f"{names[row['id']]} ({row['file_id']})" if names[row["id"]] in twice else names[row["id"]]
        for row in categories
    }


# ---- reading and checking ------------------------------------------------------------------------------------------


def _read_json(path: Path, option: str) -> Any:
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"No file at {path}: check {option}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check {option}.") from None
    except RefusedError as error:
        raise DataError(f"{path} has what is not taken here: {error}. Check {option}.") from None
    except DocumentError as error:
        raise DataError(f"{path} is not JSON: {error}. Check {option}.") from None


def _checked_truth(content: Any, path: Path) -> dict[str, Any]:
    """The file's data set with ids numbered from 1 in the order of its own ids, so that ties fall as in the file."""
    if isinstance(content, list):
        raise DataError(f"{path} holds a list, as COCO results do: --annotations wants the file with the true boxes.")
    if not isinstance(content, dict):
        raise DataError(f"{path} is no COCO file: it must hold an object with images, annotations and categories.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            hint = "a file without true boxes cannot be scored against" if key == "annotations" else "add it"
            raise DataError(f"{path} is no COCO annotation file: it has no list '{key}'; {hint}.")
    images = _numbered(content["images"], f"{path}: images")
    categories = _numbered(content["categories"], f"{path}: categories")
    _check_names(content["categories"], f"{path}: categories")
    rows = content["annotations"]
    where = f"{path}: annotations"
    for index, row in enumerate(rows):
        _check_keys(row, ("id", "image_id", "category_id", "bbox"), f"{where}[{index}]")
        _check_bbox(row["bbox"], f"{where}[{index}]")
        _check_area_and_crowd(row, f"{where}[{index}]")
    _numbered(rows, where)  # for its complaints about ids that come twice
    _check_known(rows, "image_id", images, where)
    _check_known(rows, "category_id", categories, where)
    return {
        "images": [{"id": number, "file_id": key} for key, number in images.items()],
        "categories": [
            {**row, "id": categories[_id(row["id"])], "file_id": row["id"]} for row in content["categories"]
        ],
        "annotations": [
            {
                "area": row["bbox"][2] * row["bbox"][3],
                **row,
                "id": number,
                "image_id": images[_id(row["image_id"])],
                "category_id": categories[_id(row["category_id"])],
                "iscrowd": int(row.get("iscrowd", 0)),
            }
            for number, row in enumerate(rows, start=1)
        ],
        "image_numbers": images,
        "category_numbers": categories,
    }


def _checked_results(content: Any, path: Path, truth: dict[str, Any]) -> list[dict[str, Any]]:
    """The file's results with the numbers that `_checked_truth` gave."""
    if not isinstance(content, list):
        kind = "an annotation file" if isinstance(content, dict) and "annotations" in content else "something else"
        raise DataError(f"{path} is {kind}: --predictions wants COCO results, a list of objects with a bbox each.")
    images, categories = truth["image_numbers"], truth["category_numbers"]
    for index, row in enumerate(content):
        where = f"{path}: entry {index}"
        _check_keys(row, ("image_id", "category_id", "bbox", "score"), where)
        _check_bbox(row["bbox"], where)
        if not _is_number(row["score"]):
            raise DataError(f"{where}: score {_shown(row['score'])} is no finite number.")
        if not isinstance(row.get("candidate", False), bool):
            raise DataError(f"{where}: candidate {_shown(row['candidate'])} is neither true nor false; leave it out.")
    _check_known(content, "image_id", images, str(path))
    _check_known(content, "category_id", categories, str(path))
    return [
        {
            "image_id": images[_id(row["image_id"])],
            "category_id": categories[_id(row["category_id"])],
            "bbox": row["bbox"],
            "score": row["score"],
            "candidate": row.get("candidate") is True,
        }
        for row in content
    ]


def _numbered(rows: Sequence[Any], where: str) -> dict[Any, int]:
    """Id → its rank from 1, numbers before text.

    Raises:
        DataError: an entry is no object or has no usable id, or ids come twice.
    """
    for index, row in enumerate(rows):
        _check_keys(row, ("id",), f"{where}[{index}]")
    counts = Counter(_id(row["id"]) for row in rows)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"{where}: ids come twice, which COCO files forbid: {_some(twice)}.")
    return {key: rank for rank, key in enumerate(sorted(counts, key=lambda key: (isinstance(key, str), key)), start=1)}


def _check_keys(row: Any, keys: Iterable[str], where: str) -> None:
    if not isinstance(row, dict):
        raise DataError(f"{where}: {_shown(row)} is no object; each entry must be one.")
    missing = [key for key in keys if key not in row]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; an entry needs {', '.join(keys)}.")
    for key in keys:
        if key.endswith("id") and not (isinstance(row[key], str) or _is_number(row[key])):
            raise DataError(f"{where}: {key} {_shown(row[key])} is neither a number nor text.")


def _check_bbox(bbox: Any, where: str) -> None:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
        raise DataError(f"{where}: bbox {_shown(bbox)} is not four finite numbers [x, y, width, height].")
    if max(map(abs, bbox)) > _FARTHEST:
        raise DataError(f"{where}: bbox {_shown(bbox)} reaches beyond {_FARTHEST:,} pixels; no picture is that large.")
    if bbox[2] < 0 or bbox[3] < 0:
        raise DataError(f"{where}: bbox {bbox} has a negative size; COCO boxes are [x, y, width, height].")


def _check_names(categories: Sequence[Row], where: str) -> None:
    for index, row in enumerate(categories):
        name = row.get("name", "")
        if not (isinstance(name, str) or _is_number(name)):
            raise DataError(f"{where}[{index}]: name {_shown(name)} is no text; leave it out to use the id.")
        if any("\ud800" <= sign <= "\udfff" for sign in str(name)):
            raise DataError(
                f"{where}[{index}]: name {_shown(name)} holds half a character, which is no text: rename it."
            )
    numbered = _category_names([{**row, "file_id": row["id"]} for row in categories])
    clashing = [name for name, count in Counter(numbered.values()).items() if count > 1]
    if clashing:
        raise DataError(
            f"{where}: several are called {_some(clashing)} once those that share a name are told apart by their ids: "
            "give each category a name of its own."
        )


def _check_area_and_crowd(row: dict[str, Any], where: str) -> None:
    if "area" in row and not _is_number(row["area"]):
        raise DataError(f"{where}: area {_shown(row['area'])} is no finite number; leave it out to use the box's.")
    if row.get("area", 0) < 0:
        raise DataError(f"{where}: area {_shown(row['area'])} is below 0; leave it out to use the box's.")
    if row.get("iscrowd", 0) not in (0, 1):
        raise DataError(f"{where}: iscrowd {_shown(row['iscrowd'])} is neither 0 nor 1.")


def _check_known(rows: Sequence[Row], key: str, known: dict[Any, int], where: str) -> None:
    unknown = dict.fromkeys(_id(row[key]) for row in rows if _id(row[key]) not in known)
    if unknown:
        some = f"the annotations have {_some(list(known))}" if known else "the annotations have none"
        raise DataError(f"{where}: unknown {key} {_some(list(unknown))}; {some}. Do the files belong together?")


def _id(value: Any) -> Any:
    """An id as a key: 1.0 and 1 are one id, as Python's dictionaries have it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63


def _some(values: Sequence[Any]) -> str:
    more = len(values) - _SHOWN
    return ", ".join(_shown(value) for value in values[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else text[:57] + "…"
