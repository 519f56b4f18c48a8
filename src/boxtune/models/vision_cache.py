"""Vision features on disk: what a frozen tower said of a picture, under a name that tells all that it depends on.

A cache is a folder of the user's, `home`. In it lies a folder for each tower and way to prepare pictures (`settings`),
and in that a safetensors file for each picture, named by the picture's content. A file is written aside and renamed, so
that processes may share a folder; none waits for the disk, so a crash may leave one cut short. What a file holds is
checked at each reading.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from boxtune.models.bare import bare_model

_SUFFIX = ".safetensors"
_SETTINGS = re.compile(r"[0-9a-f]{40}")
_UNUSED_SECONDS = 2 * 24 * 3600  # no run that is under way leaves a folder alone for so long


class DamagedFeaturesError(Exception):
    """A file of a cache that does not hold what its name says. For ourselves: the picture is looked at again."""


@dataclass(frozen=True)
class KeptFeatures:
    """What a tower says of one picture.

    Attributes:
        features: `[layers, tokens, hidden]`: the merger's output, and behind it those of Qwen3-VL's deepstack mergers.
        grid_thw: frames, rows and columns of patches.
        image_hw: size of the upright image in pixels.
    """

    features: torch.Tensor
    grid_thw: tuple[int, int, int]
    image_hw: tuple[int, int]


@dataclass(frozen=True)
class VisionCache:
    """The features of one tower and one way to prepare pictures, in a folder that others may share.

    Attributes:
        home: the cache.
        settings: 40 digits that tell apart what features depend on besides the picture (see `settings_digest`).
    """

    home: Path
    settings: str

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.home / self.settings

    def path(self, name: str) -> Path:
        """The file of a picture, whether it is there or not."""
        return self.folder / f"{name}{_SUFFIX}"

    def read(self, name: str) -> KeptFeatures | None:
        """The features of a picture; None where none are kept.

        Raises:
            DamagedFeaturesError: the file cannot be read, or is not what it was when it was written.
        """
        try:
            content = self.path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedFeaturesError(f"{self.path(name)}: {error.strerror or error}") from error
        try:
            return self._checked(name, content)
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedFeaturesError(f"{self.path(name)}: {error}") from error

    def write(self, name: str, kept: KeptFeatures) -> int:
        """Keep the features of a picture unless they are there already; returns the bytes that were written.

        Raises:
            OSError: no room, or no permission; nothing is left behind.
        """
        path = self.path(name)
        if path.exists():
            return 0
        features = kept.features.contiguous()
        facts = {
            "name": name,
            "settings": self.settings,
            "grid_thw": json.dumps(kept.grid_thw),
            "image_hw": json.dumps(kept.image_hw),
        }
        content = safetensors.torch.save({"features": features}, facts | {"crc32": _checksum(facts, features)})
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{name}.{secrets.token_hex(4)}")
        try:
            aside.write_bytes(content)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        return len(content)

    def remove(self, name: str) -> None:
        """Have a file that is damaged written anew; where that is not allowed, it is passed over at each reading."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError:
            return

    def num_pictures(self) -> int:
        """How many have features here."""
        return sum(entry.name.endswith(_SUFFIX) for entry in _entries(self.folder))

    def make_room(self, num_bytes: int) -> None:
        """Remove features of other settings that were unused for two days, those unused for longest first, until the
        cache holds no more than this; and what was never finished.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        os.utime(self.folder)
        now = time.time()
        for entry in [entry for folder in _settings_folders(self.home) for entry in _entries(folder)]:
            if entry.name.startswith(".") and now - _changed(entry) > _UNUSED_SECONDS:
                Path(entry.path).unlink(missing_ok=True)
        total = used_bytes(self.home)
        for folder in sorted(_settings_folders(self.home), key=_changed):
            if total <= num_bytes:
                return
            if folder.name != self.settings and now - _changed(folder) > _UNUSED_SECONDS:
                total -= sum(_size(entry) for entry in _entries(folder))
                shutil.rmtree(folder, ignore_errors=True)  # another process may remove it, too

    def _checked(self, name: str, content: bytes) -> KeptFeatures:
        length = int.from_bytes(content[:8], "little")
        facts = json.loads(content[8 : 8 + length])["__metadata__"]
        features = safetensors.torch.load(content)["features"]
        if facts.pop("crc32") != _checksum(facts, features):
            raise ValueError("its content has changed")
        if (facts["name"], facts["settings"]) != (name, self.settings):
            raise ValueError("it was written for another picture or tower")
        (frames, rows, columns), (height, width) = json.loads(facts["grid_thw"]), json.loads(facts["image_hw"])
        return KeptFeatures(features, (frames, rows, columns), (height, width))


def settings_digest(model: Any, processor: Any, facts: Mapping[str, Any]) -> str:
    """What features depend on besides the picture, in 40 digits: tower, weights, image processor, versions and `facts`.

    Args:
        model: of transformers, or a PeftModel around it, ready to be trained; its tower is frozen.
        processor: of the model, with the pixel limits of the run.
        facts: more of it, JSON-ready: the arithmetic of a step, how images are opened.
    """
    import torchvision
    import transformers
    from PIL import __version__ as pillow_version

    bare = bare_model(model)
    tower, images = bare.model.visual, processor.image_processor
    known = {
        "tower": [type(tower).__name__, bare.config.vision_config.to_dict()],
        "attention": bare.config.vision_config._attn_implementation,
        "device": next(tower.parameters()).device.type,
        "weights": _weights_digest(tower),
        "images": [type(images).__name__, images.to_dict()],
        "versions": [torch.__version__, torchvision.__version__, transformers.__version__, pillow_version],
        **facts,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:40]


def used_bytes(home: Path) -> int:
    """Size of all features in a cache, of whatever settings."""
    return sum(_size(entry) for folder in _settings_folders(home) for entry in _entries(folder))


def _weights_digest(tower: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()


def _checksum(facts: Mapping[str, str], features: torch.Tensor) -> str:
    about = json.dumps([sorted(facts.items()), str(features.dtype), features.shape])
    return str(zlib.crc32(_bytes_of(features), zlib.crc32(about.encode())))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _settings_folders(home: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(home) if _SETTINGS.fullmatch(entry.name)]


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder; nothing where it was removed."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # another process has renamed or removed it
        return 0


def _changed(path: Path | os.DirEntry[str]) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
