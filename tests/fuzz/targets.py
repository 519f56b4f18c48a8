"""What is fuzzed: each target takes bytes as a stranger might have written them, and raises where boxtune is wrong.

An error of boxtune's is a right answer to a bad file; any other exception, or a result that contradicts itself, is not.
`python -m fuzz.run` drives them by atheris for as long as one likes, `tests/security/test_fuzzing.py` by hypothesis for
some seconds.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from boxtune.config.load import load_config
from boxtune.data.dataset import load_dataset
from boxtune.data.images import open_upright_rgb, probe_image
from boxtune.detections import Detections
from boxtune.errors import BoxtuneError, DataError
from boxtune.evaluation.coco import score_files
from boxtune.evaluation.provenance import seen_images
from boxtune.grounding.codec import Codec
from boxtune.grounding.json_form import JsonForm
from boxtune.grounding.spaces import InputPixels, Relative1000
from boxtune.grounding.token_form import TokenForm
from boxtune.inference.calibrator import read_calibrator
from boxtune.models.bases import base_of_head
from boxtune.models.contract import read_contract
from boxtune.models.detection_head.saving import read_head_config
from boxtune.models.places import base_of_adapter
from boxtune.models.places import load_config as load_model_config

PART = b"\n=====\n"
"""Stands between the files of a data set that has more than one."""

CODECS = (Codec(Relative1000(), TokenForm()), Codec(InputPixels(), JsonForm()), Codec(Relative1000(), JsonForm()))
IMAGE_HW, INPUT_HW = (480, 640), (476, 644)


@dataclass(frozen=True)
class Target:
    """A reader, which tells whether it took what it was given, and files that it takes as they are."""

    check: Callable[[bytes], bool]
    seeds: tuple[bytes, ...]


@functools.cache
def _home() -> Path:
    """A folder of this process, in memory where the system has that, with one image in it."""
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="boxtune-fuzz-", dir=memory if memory.is_dir() else None))
    (home / "a.png").write_bytes(_png())
    return home


def clean_up() -> None:
    """Remove what the targets wrote."""
    shutil.rmtree(_home(), ignore_errors=True)
    _home.cache_clear()


def _png(width: int = 8, height: int = 6) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


# ---- answers of models ---------------------------------------------------------------------------------------------


def answer(data: bytes) -> bool:
    """A model's answer; the first byte chooses the convention and whether labels are known."""
    if not data:
        return False
    codec = CODECS[data[0] % len(CODECS)]
    labels = ("table", 'a "b" <|im_end|>', "red cell") if data[0] & 64 else None
    text = data[1:].decode("utf-8", "surrogateescape")
    result = codec.decode(text, IMAGE_HW, INPUT_HW, labels)
    assert (result.status == "ok") == (not result.reason)
    assert len(result.spans) == len(result.detections)
    assert result.status != "malformed" or not len(result.detections)
    height, width = IMAGE_HW
    assert np.isfinite(result.detections.xyxy).all()
    assert (result.detections.xyxy >= 0).all()
    assert (result.detections.xyxy <= [width, height, width, height]).all()
    assert (result.detections.xyxy[:, 2:] > result.detections.xyxy[:, :2]).all()
    for span in result.spans:
        start, end = span.whole
        assert 0 <= start <= span.label[0] <= span.label[1] <= end <= len(text)
        assert all(start <= a < b <= end for a, b in span.coordinates)
    if labels is not None:
        assert set(result.detections.labels) <= set(labels)
    for piece in ("]", '"}]', "}", "", "none"):
        if codec.form.may_end(piece) and (again := codec.form.reopened(text, piece)) is not None:
            assert codec.form.read_exact(again[0]) is not None
    return result.status == "ok"


_SCENE = Detections([[1, 2, 300, 400], [10, 20, 30, 40]], ["table", 'a "b" <|im_end|>'])
_ANSWERS = tuple(
    bytes([number + known]) + codec.encode(_SCENE.select(range(count)), IMAGE_HW, INPUT_HW).encode()
    for number, codec in enumerate(CODECS)
    for known in (0, 66 - 66 % 3)
    for count in range(3)
)

# ---- data sets -----------------------------------------------------------------------------------------------------


def _open(spec: str, format_name: str) -> bool:
    try:
        dataset = load_dataset(spec, format=format_name, on_error="skip")
    except BoxtuneError:
        return False
    for record in dataset.records:
        height, width = record.image_hw
        assert np.isfinite(record.detections.xyxy).all()
        assert (record.detections.xyxy >= 0).all()
        assert (record.detections.xyxy <= [width, height, width, height]).all()
        assert all(isinstance(label, str) and label for label in record.detections.labels)
        assert isinstance(record.id, str)
    for skipped in dataset.skipped:
        assert str(skipped)
    dataset.fingerprint()
    return not dataset.skipped and any(len(record.detections) for record in dataset.records)


def _one_file(name: str, format_name: str) -> Callable[[bytes], bool]:
    def check(data: bytes) -> bool:
        path = _home() / name
        path.write_bytes(data)
        return _open(str(path), format_name)

    return check


def yolo(data: bytes) -> bool:
    """`data.yaml`, and the labels of the image."""
    folder = _home() / "yolo"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(_png())
    description, _, labels = data.partition(PART)
    (folder / "data.yaml").write_bytes(description)
    (folder / "a.txt").write_bytes(labels)
    return _open(str(folder), "yolo")


def voc(data: bytes) -> bool:
    """The XML file of the image."""
    folder = _home() / "voc"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(_png())
    (folder / "a.xml").write_bytes(data)
    return _open(str(folder), "voc")


def parquet(data: bytes) -> bool:
    """A file of rows; what `datasets` keeps of it is removed."""
    import datasets

    path = _home() / "rows.parquet"
    path.write_bytes(data)
    datasets.config.HF_DATASETS_CACHE = str(_home() / "cache")
    try:
        return _open(str(path), "hub")
    finally:
        shutil.rmtree(_home() / "cache", ignore_errors=True)


def _parquet_seed() -> bytes:
    objects = {"bbox": [[1.0, 1.0, 4.0, 3.0]], "category": ["cat"]}
    table = pa.table({"image": [{"bytes": _png(), "path": None}], "objects": [objects]})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


_COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 3, 2], "iscrowd": 0}],
    "categories": [{"id": 2, "name": "cat", "supercategory": "animal"}],
}
_JSONL = (
    {"image": "a.png", "width": 8, "height": 6, "objects": [{"bbox_xyxy_px": [1, 1, 4, 3], "label": "cat"}]},
    {"images": ["a.png"], "messages": [], "objects": {"ref": ["cat"], "bbox": [[0, 0, 1, 1]], "bbox_type": "norm1"}},
)
_YOLO = b"path: .\ntrain: .\nval: .\nnames: {0: cat, 1: dog}\nnc: 2\n" + PART + b"0 0.5 0.5 0.2 0.2\n1 0 0 1 0 1 1\n"
_VOC = (
    b"<annotation><filename>a.png</filename><size><width>8</width><height>6</height></size><object><name>cat</name>"
    b"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>3</ymax></bndbox></object></annotation>"
)

# ---- pictures ------------------------------------------------------------------------------------------------------


def picture(data: bytes) -> bool:
    """An image file."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 1 << 20
    try:
        info = probe_image(data, "fuzzed")
        image = open_upright_rgb(data, "fuzzed")
        assert (image.mode, image.height, image.width) == ("RGB", *info.image_hw)
        return True
    except DataError:
        return False
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _pictures() -> tuple[bytes, ...]:
    ramp = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for kind, mode in (
        *((kind, "RGB") for kind in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")),
        *(("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("TIFF", "1"), ("TIFF", "I;16"), ("PNG", "I;16")),
    ):
        file = io.BytesIO()
        image = Image.fromarray(ramp[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(ramp)
        image = image if mode in ("RGB", "I;16") else image.convert(mode)
        image.save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
        made.append(file.getvalue())
    return tuple(made)


# ---- what lies in folders of models and runs -----------------------------------------------------------------------


def model_folder(data: bytes) -> bool:
    """The same bytes under every name that is read before weights are."""
    folder = _home() / "model"
    folder.mkdir(exist_ok=True)
    names = ("boxtune.json", "calibration.json", "detection_head.json", "adapter_config.json", "config.json")
    for name in names:
        (folder / name).write_bytes(data)
    (folder / "run.json").write_bytes(data)
    bases = (base_of_adapter, base_of_head)
    readers = (read_contract, read_calibrator, read_head_config, *bases, lambda f: load_model_config(str(f)))
    taken = [False]
    for read in (*readers, lambda f: seen_images(f, _one_image())):
        with contextlib.suppress(BoxtuneError):
            read(folder)
            taken.append(True)
    return any(taken)


@functools.cache
def _one_image():
    (_home() / "set.jsonl").write_text(json.dumps(_JSONL[0]))
    return load_dataset(_home() / "set.jsonl", format="jsonl")


_CONTRACT = {
    "version": 1, "model_type": "qwen2_vl", "boxes": {"space": "relative_1000", "form": "tokens"}, "min_pixels": 3136,
    "max_pixels": 12544, "labels": ["cat"], "prompt": None, "system": None, "box_order": "raster",
    "max_new_tokens": 64, "quantized_base": None, "base_weights": None,
}  # fmt: skip
_CALIBRATION = {"version": 1, "kind": "temperature", "temperature": 1.5, "bias": 0.1, "said": [], "true": [],
                "num_boxes": 9}  # fmt: skip
_HEAD = {"version": 1, "hidden_size": 64, "vocab_size": 512, "end_token_id": 2, "width": 64, "num_heads": 2,
         "ffn_width": 128}  # fmt: skip
_MODEL = {"model_type": "qwen2_vl", "text_config": {"hidden_size": 64}, "vision_config": {"depth": 1}}
_ADAPTER = {"base_model_name_or_path": "embedded", "peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
_RUN = {"data": {"images": "eJwDAAAAAAE=", "fingerprint": "0"}}


def configuration(data: bytes) -> bool:
    """A YAML file, and the same text as a value on the command line."""
    path = _home() / "config.yaml"
    path.write_bytes(data)
    with contextlib.suppress(BoxtuneError):
        load_config(None, ["trainer.max_steps=" + data.decode("utf-8", "replace")])
    try:
        load_config(path)
    except BoxtuneError:
        return False
    return True


def scored_files(data: bytes) -> bool:
    """Annotations and results for `boxtune score`."""
    annotations, results = _home() / "annotations.json", _home() / "results.json"
    first, _, second = data.partition(PART)
    annotations.write_bytes(first)
    results.write_bytes(second)
    try:
        score_files(annotations, results, num_resamples=0)
    except BoxtuneError:
        return False
    return True


_RESULTS = [{"image_id": 1, "category_id": 2, "bbox": [1, 1, 3, 2], "score": 0.5}]


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


TARGETS: dict[str, Target] = {
    "answer": Target(answer, _ANSWERS),
    "coco": Target(_one_file("train.json", "coco"), (_json(_COCO),)),
    "jsonl": Target(_one_file("train.jsonl", "jsonl"), tuple(map(_json, _JSONL))),
    "yolo": Target(yolo, (_YOLO,)),
    "voc": Target(voc, (_VOC,)),
    "parquet": Target(parquet, (_parquet_seed(),)),
    "picture": Target(picture, _pictures()),
    "model_folder": Target(model_folder, tuple(map(_json, (_CONTRACT, _CALIBRATION, _HEAD, _MODEL, _ADAPTER, _RUN)))),
    "configuration": Target(configuration, (b"trainer: {max_steps: 4}\nmodel:\n  name: embedded\n",)),
    "scored_files": Target(scored_files, (_json(_COCO) + PART + _json(_RESULTS),)),
}
