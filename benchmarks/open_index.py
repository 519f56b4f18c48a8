"""Open a data set of many rows twice, each time in a process of its own: without an index, which writes it, and with.

    python benchmarks/open_index.py --rows 1000000 --format jsonl
    python benchmarks/open_index.py --rows 200000 --train        # and five steps of a tiny model
    python benchmarks/open_index.py --rows 200000 --train --as-list

The rows name a hundred small JPEGs in turn and have one to three boxes each. Printed are seconds by the clock and of
the processor, and the largest resident memory: all of it, and what belongs to the process alone (mapped files do not).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

_NUM_PICTURES = 100
_SIDE_PX = 64


def make_rows(folder: Path, num_rows: int, format_name: str) -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(_NUM_PICTURES):
        pixels = noise.integers(0, 256, (_SIDE_PX, _SIDE_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    _WRITERS[format_name](folder, num_rows)


def _write_jsonl(folder: Path, num_rows: int) -> None:
    with (folder / "train.jsonl").open("w") as file:
        for row in range(num_rows):
            objects = [{"bbox_xyxy_px": [1, 2, 30 + box, 40], "label": "table"} for box in range(1 + row % 3)]
            line = {"id": str(row), "image": f"{row % _NUM_PICTURES}.jpg", "objects": objects}
            file.write(json.dumps({**line, "width": _SIDE_PX, "height": _SIDE_PX}) + "\n")


def _write_coco(folder: Path, num_rows: int) -> None:
    size = f'"width": {_SIDE_PX}, "height": {_SIDE_PX}'
    with (folder / "train.json").open("w") as file:
        file.write('{"categories": [{"id": 1, "name": "table"}], "images": [')
        file.write(",".join(f'{{"id": {n}, "file_name": "{n % _NUM_PICTURES}.jpg", {size}}}' for n in range(num_rows)))
        file.write('], "annotations": [')
        boxes = ((row, box) for row in range(num_rows) for box in range(1 + row % 3))
        for number, (row, box) in enumerate(boxes):
            entry = {"id": number, "image_id": row, "category_id": 1, "bbox": [1, 2, 29 + box, 38]}
            file.write(("," if number else "") + json.dumps(entry))
        file.write("]}")


def _write_yolo(folder: Path, num_rows: int) -> None:
    images, labels = (folder / kind / "train" for kind in ("images", "labels"))
    for home in (images, labels):
        home.mkdir(parents=True)
    for row in range(num_rows):
        (images / f"{row}.jpg").hardlink_to(folder / f"{row % _NUM_PICTURES}.jpg")
        (labels / f"{row}.txt").write_text("0 0.5 0.5 0.2 0.2\n" * (1 + row % 3))
    (folder / "data.yaml").write_text("train: images/train\nnames: [table]\n")


def _write_voc(folder: Path, num_rows: int) -> None:
    images, annotations = folder / "JPEGImages", folder / "Annotations"
    for home in (images, annotations):
        home.mkdir()
    corners = "<xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>40</ymax>"
    box = f"<object><name>table</name><bndbox>{corners}</bndbox></object>"
    for row in range(num_rows):
        (images / f"{row}.jpg").hardlink_to(folder / f"{row % _NUM_PICTURES}.jpg")
        text = f"<annotation><filename>{row}.jpg</filename>{box * (1 + row % 3)}</annotation>"
        (annotations / f"{row}.xml").write_text(text)


_WRITERS = {"jsonl": _write_jsonl, "coco": _write_coco, "yolo": _write_yolo, "voc": _write_voc}


def train_a_little(folder: Path) -> None:
    from boxtune.config.load import load_config
    from boxtune.training.run import train

    with tempfile.TemporaryDirectory() as output_dir:
        settings = [
            f"data.path={folder}",
            f"output_dir={output_dir}",
            "model.name=tiny:qwen3_vl",
            "trainer.max_steps=5",
            "trainer.per_device_train_batch_size=4",
            "data.num_workers=0",
            "data.augment=none",
            "evaluation.max_images=8",
            "evaluation.max_new_tokens=8",
            "logging.tensorboard=false",
        ]
        train(load_config(None, settings), console=Console(quiet=True))


def open_once(folder: Path, with_training: bool) -> None:
    """Open, and do what every run does with all records; figures as JSON on stdout."""
    from boxtune.data.dataset import load_dataset
    from boxtune.inspection.dataset_boxes import table_of

    found: dict[str, list[float]] = {}

    def measured(name: str, work: Callable[[], object]) -> object:
        began, cpu_began = time.perf_counter(), time.process_time()
        result = work()
        seconds = time.perf_counter() - began, time.process_time() - cpu_began
        found[name] = [*seconds, _peak_mib(), _own_mib()]
        return result

    measured("import", lambda: load_dataset("synthetic:nutrition?n=1"))
    dataset = measured("open", lambda: load_dataset(folder))
    draw = np.random.default_rng(1).integers(0, len(dataset), 20_000)
    measured("20 000 records", lambda: [dataset.records[row] for row in draw.tolist()][:0])
    measured("fingerprint", dataset.fingerprint)
    measured("split_off", lambda: dataset.split_off(0.1))
    measured("pickle", lambda: pickle.loads(pickle.dumps(dataset)))
    if with_training:
        del dataset
        measured("train", lambda: train_a_little(folder))
    else:
        measured("table of boxes", lambda: table_of(dataset))
    print(json.dumps(found))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _own_mib() -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines["RssAnon"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", choices=_WRITERS, default="jsonl")
    parser.add_argument("--train", action="store_true", help="five steps of a tiny model instead of the table of boxes")
    parser.add_argument("--as-list", action="store_true", help="no index, as where the cache cannot be written")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open is not None:
        open_once(arguments.open, arguments.train)
        return
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "data")
        make_rows(folder, arguments.rows, arguments.format)
        cache = Path(home, "cache")
        if arguments.as_list:
            cache.write_text("no folder")
        environment = os.environ | {"BOXTUNE_CACHE": str(cache)}
        for title in ("as a list",) if arguments.as_list else ("without an index", "with it"):
            command = [sys.executable, __file__, "--open", str(folder), *(["--train"] if arguments.train else [])]
            output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
            print(f"{arguments.rows} rows of {arguments.format}, {title}")
            print(f"{'':18}{'seconds':>9}{'CPU s':>9}{'peak MiB':>10}{'own MiB':>9}")
            for name, figures in json.loads(output).items():
                print(f"  {name:16}" + "".join(f"{x:{w}.1f}" for x, w in zip(figures, (9, 9, 10, 9), strict=True)))
        size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
        print(f"the index takes {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
