"""What can be chosen: models by name, and reports of finished runs; nothing else is ever opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boxtune.errors import ConfigError, ModelError
from boxtune.inference.detector import Decoder
from boxtune.models.contract import FILE_NAME
from boxtune.models.detection_head.saving import CONFIG_FILE as HEAD_CONFIG
from boxtune.models.detection_head.saving import has_head
from boxtune.models.load import check_model
from boxtune.models.places import folder_of

REPORT: Final = "report.html"

_DEPTH = 4  # runs/NAME/stage-2/model: no deeper, so that a whole disk is not walked
_WEIGHTS = ("config.json", "adapter_config.json", HEAD_CONFIG)


@dataclass(frozen=True)
class Choice:
    """A model that can be chosen.

    Attributes:
        name: as `load_detector` takes it.
        decoders: it can be asked by.
    """

    name: str
    decoders: tuple[Decoder, ...]


@dataclass(frozen=True)
class Catalogue:
    """Models and reports below the folders that were named when the app was started.

    Args:
        models: names, as `load_detector` takes them; the first is chosen at the start.
        runs: a folder of runs, looked through anew whenever a list is asked for; None for none.
    """

    models: tuple[str, ...]
    runs: Path | None

    def choices(self) -> dict[str, Choice]:
        """Name on the page → model: those that were named first, then those of the runs."""
        found = {name: _choice(name) for name in self.models}
        for folder in self._folders():
            if (folder / FILE_NAME).is_file() and any((folder / name).is_file() for name in _WEIGHTS):
                found.setdefault(str(folder), _choice(str(folder)))
        return found

    def reports(self) -> dict[str, Path]:
        """Name on the page → file, of the runs and of the models that were named."""
        named = [folder for name in self.models if (folder := Path(name)).is_dir()]
        homes = dict.fromkeys((*named, *self._folders()))
        files = {str(home): home / REPORT for home in homes}
        return {name: file for name, file in files.items() if file.is_file() and not file.is_symlink()}

    def _folders(self) -> Iterator[Path]:
        if self.runs is not None:
            yield from _below(self.runs, _DEPTH)


def open_catalogue(models: Sequence[str], runs: Path | None) -> Catalogue:
    """A catalogue whose named models are there.

    Raises:
        ConfigError: `runs` is no folder.
        ModelError: a model that was named cannot be loaded, as far as small files tell.
    """
    if runs is not None and not runs.is_dir():
        raise ConfigError(f"No folder at {runs}: check --runs.")
    for name in models:
        check_model(name)
    catalogue = Catalogue(tuple(dict.fromkeys(models)), runs)
    if not catalogue.choices():
        raise ModelError(f"No model below {runs}: name one with --model.")
    return catalogue


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """A folder and those in it, sorted; no checkpoints, nothing hidden, and no link that may lead elsewhere."""
    yield folder
    if depth == 0:
        return
    for inner in sorted(folder.iterdir()):
        if inner.name.startswith((".", "checkpoint-")) or inner.is_symlink() or not inner.is_dir():
            continue
        yield from _below(inner, depth - 1)


def _choice(name: str) -> Choice:
    return Choice(name, ("text", "head", "both") if has_head(folder_of(name)) else ("text",))
