"""The vision features of a run: whether they are kept on disk, how new ones get there, and what came of it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from boxtune import processes
from boxtune.collators.pictures import NamedPictures
from boxtune.config.checks import obstacle_to_vision_cache
from boxtune.config.schema import Config
from boxtune.data import images
from boxtune.data.dataset import DetectionDataset
from boxtune.data.index import cache_folder
from boxtune.errors import SaveError
from boxtune.models.frozen_vision import Picture, joined_features
from boxtune.models.sending import on_its_way
from boxtune.models.vision_cache import KeptFeatures, VisionCache, settings_digest, used_bytes
from boxtune.training import auto

_MOST_GB, _MOST_SHARE = 50, 1 / 3  # of what the disk has free: checkpoints need room, too
_OF_THE_TOWER = ("patch_product", "padded_vision", "compiled_blocks")  # speedups that it rounds otherwise by
_WAITING_BYTES = 1 << 30  # that may wait for the disk; what comes on top is not kept, so that no step waits


def check_cache_folder(config: Config) -> None:
    """Refuse a folder for features that cannot be written to, before anything is loaded.

    Raises:
        SaveError: names the folder and the reason.
    """
    if config.model.vision_cache in ("auto", "none"):
        return
    home = Path(config.model.vision_cache).expanduser()
    try:
        _try_writing(home)
    except OSError as error:
        raise SaveError(
            f"model.vision_cache={home} cannot be written to ({error.strerror or error}): choose another folder, or "
            "model.vision_cache=none."
        ) from None


def why_not(config: Config, num_images: int) -> str:
    """Why a run keeps no features; empty where it does.

    Args:
        config: fitted.
        num_images: to train on.
    """
    if config.model.vision_cache == "none":
        return "model.vision_cache=none"
    if (obstacle := obstacle_to_vision_cache(config)) is not None:
        return obstacle[1]
    if config.model.vision_cache != "auto":
        return ""
    if config.trainer.minutes is not None:
        return "with trainer.minutes the number of rounds is not known; model.vision_cache=FOLDER takes it all the same"
    return "" if _rounds(config, num_images) > 1 else "no picture comes twice"


def open_features(
    config: Config, model: Any, processor: Any, num_images: int, device: torch.device
) -> tuple[RunFeatures | None, str]:
    """The features of a run, or None where none are kept; and a line that says so.

    Args:
        config: fitted.
        model: ready to be trained, and made fast.
        processor: with the pixel limits of the run.
        num_images: to train on.
        device: that the model is on.
    """
    if why := why_not(config, num_images):
        return None, f"Vision cache: not used, {why}"
    asked = config.model.vision_cache
    home = cache_folder().parent / "vision" if asked == "auto" else Path(asked).expanduser()
    facts = {
        "arithmetic": "bf16" if auto.use_bf16(config, device) else "as the weights",
        "kernels": [name for name in _OF_THE_TOWER if name in config.model.speedups],
        "opening": hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest(),
    }
    cache = VisionCache(home, settings_digest(model, processor, facts))
    try:
        _try_writing(home)
        limit = _limit_bytes(config, home)
        if processes.is_first():
            cache.make_room(limit // 2)
    except OSError as error:
        return None, f"Vision cache: not used, {home} cannot be written to ({error.strerror or error})"
    room = max(0, limit - used_bytes(home))
    line = f"Vision cache: {home}, features of {cache.num_pictures()} pictures are there, room for {_in_words(room)}"
    return RunFeatures(cache, limit), line


class RunFeatures:
    """Joins features that are kept with those of new pictures, and has the new ones written by a thread.

    Args:
        cache: that they are kept in.
        limit_bytes: of the whole cache. It is counted anew each time a sixty-fourth of it was written, so processes
            that share it may together write so much more each.

    Attributes:
        num_kept, num_new, num_damaged: pictures so far; damaged ones are new ones, too.
        num_bytes: that were written.
    """

    def __init__(self, cache: VisionCache, limit_bytes: int) -> None:
        self.cache, self.limit_bytes = cache, limit_bytes
        self.num_kept = self.num_new = self.num_damaged = self.num_bytes = 0
        self.say: Callable[[str], None] = lambda _: None
        self._thread = ThreadPoolExecutor(1, "vision-cache")
        self._waiting: list[tuple[Future[None], int]] = []
        self._allowed_bytes = 0  # until the cache is counted anew
        self._stopped_by = ""  # why nothing more is written
        self._told: set[str] = set()

    def pictures(self, samples: DetectionDataset) -> NamedPictures:
        """The images as they are shown in training."""
        return NamedPictures(samples, self.cache)

    def join(self, model: Any, inputs: Mapping[str, Any], vision: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """The inputs of a batch with features in the place of pixels, and the features themselves `[tokens, hidden]`.

        Args:
            model: of transformers, or a PeftModel around it.
            inputs, vision: of the batch.
        """
        pictures: Sequence[Picture] = vision["pictures"]
        inputs, features, new = joined_features(model, inputs, pictures, vision.get("kept"))
        unknown = [picture for picture in pictures if not picture.is_kept]
        self.num_kept += len(pictures) - len(unknown)
        self.num_new += len(unknown)
        if new is not None:
            self._keep(unknown, new)
        damage = [picture.damage for picture in unknown if picture.damage]
        self.num_damaged += len(damage)
        if damage:
            self._say_once("damaged", f"Vision cache: {damage[0]}. Such features are computed anew.")
        if self._stopped_by:
            self._say_once("stopped", self._stopped_by)
        return inputs, features[0]

    def close(self) -> None:
        """Wait until all is written."""
        self._thread.shutdown()
        self._collect()
        if self._stopped_by:
            self._say_once("stopped", self._stopped_by)

    def report(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> str:
        """What came of it, for people.

        Args:
            reduce: adds up over processes.
        """
        own = torch.tensor([self.num_kept, self.num_new, self.num_damaged, self.num_bytes])
        kept, new, damaged, num_bytes = reduce(own).tolist()
        spoilt = f", {damaged} of them damaged" if damaged else ""
        return (
            f"Vision cache: {kept} of {kept + new} pictures came from it, {new} were looked at{spoilt}; "
            f"{_in_words(num_bytes)} written"
        )

    def _keep(self, pictures: Sequence[Picture], features: torch.Tensor) -> None:
        """Hand them to the thread; the copy off the device is not waited for here."""
        self._collect()
        size = features.numel() * features.element_size()
        if self._stopped_by or sum(waiting for _, waiting in self._waiting) + size > _WAITING_BYTES:
            return
        copy, copied = on_its_way(features)
        self._waiting.append((self._thread.submit(self._write_all, pictures, copy, copied), size))

    def _collect(self) -> None:
        """Errors of the thread that are none of the disk's are raised here."""
        while self._waiting and self._waiting[0][0].done():  # one thread: they end in order
            self._waiting.pop(0)[0].result()

    def _write_all(self, pictures: Sequence[Picture], features: torch.Tensor, copied: Any) -> None:
        if copied is not None:
            copied.synchronize()
        parts = features.split([picture.num_tokens for picture in pictures], dim=1)
        for picture, part in zip(pictures, parts, strict=True):
            if not self._stopped_by and part.isfinite().all():  # a fault of one step is not for all that follow
                self._write(picture, part)

    def _write(self, picture: Picture, features: torch.Tensor) -> None:
        home = self.cache.home
        try:
            if not self._has_room(features.numel() * features.element_size()):
                self._stopped_by = (
                    f"Vision cache: {home} is full ({_in_words(self.limit_bytes)}), so new pictures are not kept: "
                    "raise model.vision_cache_gb, or remove what is in it."
                )
                return
            self.num_bytes += self.cache.write(picture.name, KeptFeatures(features, picture.grid_thw, picture.image_hw))
        except OSError as error:
            self._stopped_by = (
                f"Vision cache: new pictures are not kept, {home} cannot be written to ({error.strerror or error})."
            )

    def _has_room(self, num_bytes: int) -> bool:
        if num_bytes > self._allowed_bytes:
            left = self.limit_bytes - used_bytes(self.cache.home)
            self._allowed_bytes = min(left, max(num_bytes, self.limit_bytes // 64))
        if num_bytes > self._allowed_bytes:
            return False
        self._allowed_bytes -= num_bytes
        return True

    def _say_once(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.say(line)


def _in_words(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"


def _rounds(config: Config, num_images: int) -> float:
    settings = config.trainer
    if settings.max_steps is None:
        return float(settings.num_train_epochs)
    per_step = int(settings.per_device_train_batch_size) * settings.gradient_accumulation_steps * processes.count()
    return settings.max_steps * per_step / num_images


def _limit_bytes(config: Config, home: Path) -> int:
    asked = config.model.vision_cache_gb
    if asked != "auto":
        return int(asked * 1e9)
    return int(min(_MOST_GB * 1e9, _MOST_SHARE * (shutil.disk_usage(home).free + used_bytes(home))))


def _try_writing(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=home):
        pass
