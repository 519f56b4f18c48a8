"""What the page does when something is dropped, chosen or pressed. Errors for users end as a message on the page."""

from __future__ import annotations

import html
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import gradio as gr
from PIL import Image

from boxtune.app.asking import Models, Picture
from boxtune.app.catalogue import Catalogue
from boxtune.app.exporting import Row, coco_of
from boxtune.app.shown import Side, shown_html
from boxtune.data.dataset import DetectionDataset
from boxtune.errors import BoxtuneError, ConfigError, DataError
from boxtune.inference.detector import Decoder
from boxtune.inference.draw import fit
from boxtune.inference.uploads import UploadLimits, check_upload, open_upload

_LOG = logging.getLogger("boxtune.app")

MAX_PHOTOS: Final = 20
"""Looked at in one go."""

PER_PAGE: Final = 12
"""Pictures of a data set shown at once."""

THUMBNAIL_PX: Final = 240

EMPTY: Final = '<div class="bt-empty">Choose pictures, then press “Find objects”.</div>'

_LABELS_LENGTH: Final = 2000

Chosen = list[str] | list[int]
"""Uploaded files, or places in the data set."""


@dataclass(frozen=True)
class Found:
    """Boxes of one model, kept for the download."""

    model: str
    labels: tuple[str, ...]
    rows: tuple[Row, ...]


@contextmanager
def told() -> Iterator[None]:
    """Errors as a message on the page: ours in their own words, others by their kind, with the rest in the log."""
    try:
        yield
    except BoxtuneError as error:  # the page renders markup in messages, and names in them may hold some
        raise gr.Error(html.escape(str(error)), title="This does not work", print_exception=False) from None
    except gr.Error:
        raise
    except Exception as error:
        _LOG.exception("The page could not answer.")
        words = f"{type(error).__name__}; the terminal that runs boxtune app has the reason."
        raise gr.Error(html.escape(words), title="Something broke", print_exception=False) from None


@dataclass(frozen=True)
class Handlers:
    """Everything that the page can ask for.

    Args:
        catalogue: models and reports that can be chosen.
        models: that answer.
        dataset: to pick pictures from; None for none.
        limits: of an uploaded picture.
        folder: of this app alone; uploads and downloads lie in it.
    """

    catalogue: Catalogue
    models: Models
    dataset: DetectionDataset | None
    limits: UploadLimits
    folder: Path

    # ---- choosing ----------------------------------------------------------------------------------------------------

    def take_photos(self, uploaded: Sequence[tuple[str, str | None]] | None) -> tuple[Chosen, str]:
        """Uploads as what is chosen, and a line that says so."""
        with told():
            paths = [self._upload(path) for path, _ in uploaded or ()]
            if len(paths) > MAX_PHOTOS:
                raise DataError(f"{len(paths)} photos are too many at once: drop at most {MAX_PHOTOS}.")
            for path in paths:
                check_upload(path.read_bytes(), path.name, self.limits)
            return [str(path) for path in paths], _counted(len(paths))

    def take_sample(self, page: float, event: gr.SelectData) -> tuple[Chosen, str]:
        """A picture of the data set as what is chosen, and a line that says so."""
        with told():
            dataset = self._dataset()
            place = (int(page) - 1) * PER_PAGE + int(event.index)
            if not 0 <= place < len(dataset):
                raise DataError(f"The data set has no picture {place + 1}: it has {len(dataset)}.")
            return [place], f"Picture {place + 1} of {len(dataset)}: {dataset.records[place].id}"

    def thumbnails(self, page: float) -> list[Image.Image]:
        """Pictures of one page of the data set, small."""
        with told():
            dataset = self._dataset()
            first = (int(page) - 1) * PER_PAGE
            places = range(max(0, first), min(first + PER_PAGE, len(dataset)))
            return [fit(dataset[place].image, THUMBNAIL_PX, THUMBNAIL_PX) for place in places]

    def decoders(self, model: str) -> Any:
        """The radio buttons of a model's decoders; hidden where there is no choice."""
        with told():
            names = self._choice_decoders(model) if model else ("text",)
            return gr.Radio(choices=list(names), value=names[0], visible=len(names) > 1)

    def lists(self) -> tuple[Any, Any, Any, str]:
        """Models, models to compare with and reports that are there now; the first report is chosen, and shown."""
        with told():
            names, reports = list(self.catalogue.choices()), list(self.catalogue.reports())
            first = next(iter(reports), None)
            return (
                gr.Dropdown(choices=names),
                gr.Dropdown(choices=[("none", ""), *((name, name) for name in names)]),
                gr.Dropdown(choices=reports, value=first, visible=bool(reports)),
                _frame(first) if first else self._no_report(),
            )

    # ---- asking ------------------------------------------------------------------------------------------------------

    def find(
        self,
        chosen: Chosen,
        first: str,
        first_decoder: Decoder,
        second: str,
        second_decoder: Decoder,
        labels: str,
        threshold: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (Gradio knows it by its default)
    ) -> tuple[str, list[Found], Any]:
        """The result as HTML, what a download needs, and the check box of true boxes, where there are any."""
        with told():
            pictures = [self._picture(one) for one in chosen]
            if not pictures:
                raise ConfigError("No picture is chosen: drop a photo, or pick one from the data set.")
            asked = _split(labels)
            pairs = [(first, first_decoder), (second, second_decoder)] if second else [(first, first_decoder)]
            sides = []
            for model, decoder in pairs:
                self._choice_decoders(model)
                progress((0, len(pictures)), desc=f"{model} is loaded and asked")
                looks, looked_for = [], asked or ()
                for looked_for, look in self.models.look(model, decoder, asked, pictures):  # noqa: B007
                    looks.append(look)
                    progress((len(looks), len(pictures)), desc=model)
                sides.append(Side(model, decoder, looked_for, tuple(looks)))
            has_truth = any(picture.truth for picture in pictures)
            kept = [_kept(side, pictures) for side in sides]
            return shown_html(pictures, sides, threshold), kept, gr.Checkbox(visible=has_truth)

    def downloads(self, found: list[Found], threshold: float) -> tuple[Any, Any]:
        """A button each for what one or two models found, with the boxes of at least this score."""
        with told():
            buttons = []
            for number, one in enumerate((*found, None, None)[:2]):
                if one is None:
                    buttons.append(gr.DownloadButton(visible=False))
                    continue
                content = coco_of(one.rows, one.labels, threshold)
                file = Path(tempfile.mkdtemp(dir=self.folder)) / (
                    "coco.json" if len(found) == 1 else f"coco-{number + 1}.json"
                )
                file.write_text(json.dumps(content, ensure_ascii=True, indent=1), encoding="utf-8")
                name = "Download COCO JSON" + ("" if len(found) == 1 else f": {one.model}")
                buttons.append(gr.DownloadButton(name, value=str(file), visible=True))
            return buttons[0], buttons[1]

    def report(self, name: str | None) -> str:
        """A frame around a report, which may run its own script and nothing else; or why there is none."""
        with told():
            if not name:
                return self._no_report()
            if name not in self.catalogue.reports():
                raise DataError(f"No report of '{name}' is there any more: load the page again.")
            return _frame(name)

    # ---- within ------------------------------------------------------------------------------------------------------

    def _no_report(self) -> str:
        runs = self.catalogue.runs
        also = f"below {runs}" if runs else "nowhere else, since no --runs was given"
        said = (
            f"No report yet: looked for report.html in the folders of --model and {also}. boxtune train and boxtune "
            "evaluate write one; load this page again then."
        )
        return f'<div class="bt-empty">{html.escape(said)}</div>'

    def _upload(self, path: str) -> Path:
        """A file that was uploaded to this app."""
        file = Path(path).resolve()
        if not file.is_relative_to(self.folder.resolve()) or not file.is_file():
            raise DataError("This photo was not uploaded here: drop it again.")
        return file

    def _picture(self, one: str | int) -> Picture:
        if isinstance(one, int):
            sample = self._dataset()[one]
            return Picture(sample.id, sample.image, sample.detections)
        file = self._upload(one)
        return Picture(file.name, open_upload(file.read_bytes(), file.name, self.limits))

    def _dataset(self) -> DetectionDataset:
        if self.dataset is None:
            raise ConfigError("There is no data set to pick from: start boxtune app with --data.")
        return self.dataset

    def _choice_decoders(self, model: str) -> tuple[Decoder, ...]:
        choice = self.catalogue.choices().get(model)
        if choice is None:
            raise ConfigError(f"'{model}' is not one of the models that the app was started with: load the page again.")
        return choice.decoders


def _frame(name: str) -> str:
    place = html.escape(f"/reports?run={quote(name, safe='')}")
    locked = 'sandbox="allow-scripts" loading="lazy"'
    return f'<iframe class="bt-report" {locked} src="{place}" title="{html.escape(name)}"></iframe>'


def _kept(side: Side, pictures: Sequence[Picture]) -> Found:
    rows = tuple(
        (picture.name, (picture.image.height, picture.image.width), look.prediction.result.detections)
        for picture, look in zip(pictures, side.looks, strict=True)
    )
    return Found(side.model, side.labels, rows)


def _split(labels: str) -> tuple[str, ...] | None:
    if len(labels) > _LABELS_LENGTH:
        raise ConfigError(f"The labels are {len(labels)} characters long: name at most {_LABELS_LENGTH} characters.")
    names = tuple(dict.fromkeys(label.strip() for label in labels.split(",") if label.strip()))
    return names or None


def _counted(num_photos: int) -> str:
    return {0: "No picture chosen.", 1: "1 photo chosen."}.get(num_photos, f"{num_photos} photos chosen.")
