"""The page: where things stand on it, and which of them does what."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

import gradio as gr

from boxtune.app.handlers import EMPTY, MAX_PHOTOS, PER_PAGE, Handlers

# The boxes are in the page already: hiding some asks nobody.
_HIDE_LOW: Final = """(threshold) => {
  for (const found of document.querySelectorAll(".bt-found")) {
    for (const one of found.querySelectorAll("[data-score]"))
      one.classList.toggle("bt-low", Number(one.dataset.score) < threshold);
    for (const side of found.querySelectorAll("figure"))
      side.querySelector(".bt-count").textContent = side.querySelectorAll(".bt-box[data-score]:not(.bt-low)").length;
  }
}"""
_SHOW_TRUTH: Final = '(shown) => { document.body.classList.toggle("bt-hide-truth", !shown) }'

_SYSTEM_FONTS: Final = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")


def theme() -> Any:
    """Colours and the fonts of the reader's own system: nothing is fetched."""
    mono = ("ui-monospace", "Menlo", "Consolas", "monospace")
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=_SYSTEM_FONTS, font_mono=mono)


def style() -> str:
    """The page's CSS."""
    return resources.files("boxtune.app").joinpath("page.css").read_text(encoding="utf-8")


def build_page(handlers: Handlers) -> gr.Blocks:
    """The page with everything wired; no telemetry, and no endpoint that clients could call by name."""
    with gr.Blocks(title="boxtune", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML('<div class="bt-head"><h1>boxtune</h1><p>Find objects in pictures.</p></div>')
        with gr.Tabs():
            with gr.Tab("Find"):
                first, second, samples = _find_tab(handlers)
            with gr.Tab("Reports"):
                report, frame = _report_tab(handlers)
        page.load(handlers.lists, None, [first, second, report, frame], **_QUIET)
        if samples is not None:
            page.load(lambda: handlers.thumbnails(1), None, samples, **_QUIET)
    return page.queue(default_concurrency_limit=1, max_size=32)


_QUIET: Final[dict[str, Any]] = {"api_visibility": "private", "show_progress": "hidden"}


def _find_tab(handlers: Handlers) -> tuple[gr.Dropdown, gr.Dropdown, gr.Gallery | None]:
    chosen, found = gr.State([]), gr.State([])
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            samples = _inputs(handlers, chosen)
            first, first_decoder = _model(handlers, "Model", with_none=False)
            second, second_decoder = _model(handlers, "Compare with", with_none=True)
            labels = gr.Textbox(label="Labels", placeholder="the model's own; or names with commas: a, b", max_lines=2)
            button = gr.Button("Find objects", variant="primary", elem_id="bt-find")
        with gr.Column(scale=7, min_width=300):
            with gr.Row():
                threshold = gr.Slider(0, 1, 0.3, step=0.01, label="Least score", min_width=200, elem_id="bt-threshold")
                truth = gr.Checkbox(True, label="True boxes", visible=False, min_width=120, scale=0, elem_id="bt-truth")
            result = gr.HTML(EMPTY, elem_id="bt-result")
            with gr.Row():
                downloads = [gr.DownloadButton(visible=False, size="sm", elem_id=f"bt-coco-{n}") for n in (1, 2)]
    asked = [chosen, first, first_decoder, second, second_decoder, labels, threshold]
    told = [result, found, truth]
    asking = button.click(handlers.find, asked, told, api_visibility="private", show_progress_on=result)
    asking.success(handlers.downloads, [found, threshold], downloads, **_QUIET)
    threshold.change(None, threshold, js=_HIDE_LOW)
    threshold.release(handlers.downloads, [found, threshold], downloads, **_QUIET)
    truth.change(None, truth, js=_SHOW_TRUTH)
    return first, second, samples


def _inputs(handlers: Handlers, chosen: gr.State) -> gr.Gallery | None:
    """Photos to drop, and pictures of the data set to click on; what was touched last is chosen."""
    dataset = handlers.dataset
    with gr.Tabs():
        with gr.Tab("Your photos"):
            photos = gr.Gallery(
                label=f"Drop up to {MAX_PHOTOS} photos",
                type="filepath",
                file_types=["image"],
                columns=3,
                height=260,
                object_fit="contain",
                buttons=[],
                elem_id="bt-photos",
            )
        if dataset is not None:
            with gr.Tab("Data set"):
                samples = gr.Gallery(
                    label=f"{dataset.name}: click on a picture",
                    interactive=False,
                    allow_preview=False,
                    columns=4,
                    height=260,
                    object_fit="contain",
                    format="jpeg",
                    buttons=[],
                    elem_id="bt-samples",
                )
                num_pages = -(-len(dataset) // PER_PAGE)
                page = gr.Slider(1, max(num_pages, 2), 1, step=1, label="Page", visible=num_pages > 1)
    note = gr.Textbox("No picture chosen.", show_label=False, interactive=False, container=False, elem_id="bt-chosen")
    photos.change(handlers.take_photos, photos, [chosen, note], **_QUIET)
    if dataset is None:
        return None
    page.change(handlers.thumbnails, page, samples, trigger_mode="always_last", **_QUIET)
    samples.select(handlers.take_sample, page, [chosen, note], **_QUIET)
    return samples


def _model(handlers: Handlers, label: str, *, with_none: bool) -> tuple[gr.Dropdown, gr.Radio]:
    choices = handlers.catalogue.choices()
    first = next(iter(choices))
    names: list[Any] = [("none", ""), *((name, name) for name in choices)] if with_none else list(choices)
    model = gr.Dropdown(
        names, value="" if with_none else first, label=label, elem_id="bt-second" if with_none else "bt-first"
    )
    decoders = ("text",) if with_none else choices[first].decoders
    decoder = gr.Radio(list(decoders), value=decoders[0], label="Boxes named by", visible=len(decoders) > 1)
    model.change(handlers.decoders, model, decoder, **_QUIET)
    return model, decoder


def _report_tab(handlers: Handlers) -> tuple[gr.Dropdown, gr.HTML]:
    """Filled when the page is loaded: runs come and go."""
    report = gr.Dropdown([], label="Run", visible=False, elem_id="bt-run")
    frame = gr.HTML("", elem_id="bt-report")
    report.input(handlers.report, report, frame, **_QUIET)  # by the reader alone: the first comes with its frame
    return report, frame
