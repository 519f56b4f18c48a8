"""`boxtune inspect data`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from boxtune.cli.options import Data, Format, OnError, Overrides

if TYPE_CHECKING:
    from boxtune.collators.encode import SampleEncoder
    from boxtune.inspection.dataset_explore import Exploration

_HOME = Path("runs/inspect")


def command(
    data: Data,
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file; see `boxtune inspect config`.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Whose tokens are counted, and whose input size the samples get.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", help="Where the page is written; runs/inspect/NAME if not given.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="One split; all where not given.")] = None,
    data_format: Format = None,
    on_error: OnError = "refuse",
    augment: Annotated[Literal["none", "light", "strong"], typer.Option(help="Show the changes of training.")] = "none",
    flip: Annotated[list[str] | None, typer.Option(help="horizontal, vertical; may be given twice.")] = None,
    num_images: Annotated[int, typer.Option(min=1, max=200, help="Samples on the page and the sheet.")] = 24,
    max_compared: Annotated[
        int | None, typer.Option("--max-compared", min=0, help="Pictures searched for copies; 0 for none.")
    ] = None,
    boxes_only: Annotated[
        bool, typer.Option("--boxes-only", help="Count from the annotations, as they are; no picture is needed.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the changes.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """What a data set holds: counts, sizes, tokens, doubtful labels, copies; a page and a sheet of samples."""
    from rich.console import Console

    from boxtune.cli.options import check_writable
    from boxtune.console import say
    from boxtune.data.dataset import load_dataset
    from boxtune.inspection.dataset import chosen_samples, print_summary, summarize_dataset, write_sheet
    from boxtune.inspection.dataset_explore import explore
    from boxtune.inspection.dataset_page import write_dataset_page

    check_writable(output_dir or _HOME)
    console = Console(stderr=json)
    if boxes_only:
        _boxes_only(data, split, data_format, output_dir, json)
        return
    # A name is known only after reading, so skipped records go beside the page once it has its folder.
    dataset = load_dataset(data, split, data_format, on_error)
    folder = output_dir or free_folder(_HOME, dataset.name, data)
    if dataset.skipped:
        from boxtune.data.records import write_skipped

        write_skipped(folder / "skipped.jsonl", dataset.skipped)
        say(console, f"{len(dataset.skipped)} bad records left out, see {folder / 'skipped.jsonl'}")
    encoder = _encoder(config, model, overrides, dataset.labels)
    exploration = explore(
        dataset,
        encoder,
        declared_splits=_declared_splits(data, split, data_format),
        max_compared=max_compared,
        console=Console(stderr=True),
    )
    print_summary(summarize_dataset(dataset), data, console, exploration.figures.splits)
    changes: dict[str, Any] = {"num_images": num_images, "augment": augment, "flip": tuple(flip or ()), "seed": seed}
    sheet, page = folder / "sheet.jpg", folder / "index.html"
    write_sheet(dataset, sheet, **changes)
    samples = chosen_samples(dataset, **changes)
    changed = augment != "none" or bool(flip)
    write_dataset_page(page, exploration, dataset, samples, encoder, changed=changed)
    _finish(exploration, folder, data, json)
    if not json:
        _tell(exploration)
        typer.echo(f"Samples with their boxes: {sheet}\nEverything on one page: {page}")


def _declared_splits(data: str, split: str | None, data_format: str | None) -> list[str]:
    """Those that were looked at together: one that was asked for is alone, and a painted set is its train split."""
    from boxtune.data.dataset import SYNTHETIC, available_splits

    return [] if split is not None or data.startswith(SYNTHETIC) else available_splits(data, data_format)


def _boxes_only(data: str, split: str | None, data_format: str | None, output_dir: Path | None, json: bool) -> None:
    from boxtune.data.dataset import SYNTHETIC
    from boxtune.data.formats.place import parse_place
    from boxtune.errors import DataError
    from boxtune.inspection.dataset_boxes import read_annotations
    from boxtune.inspection.dataset_explore import explore_table
    from boxtune.inspection.dataset_page import write_dataset_page

    if data.startswith(SYNTHETIC):
        raise DataError(f"--boxes-only reads annotations as they are written, and '{data}' has none: leave it out.")
    table, skipped = read_annotations(data, split, data_format)
    name = parse_place(data).name
    exploration = explore_table(table, name, skipped, declared_splits=_declared_splits(data, split, data_format))
    folder = output_dir or free_folder(_HOME, name, data)
    folder.mkdir(parents=True, exist_ok=True)
    write_dataset_page(folder / "index.html", exploration)
    _finish(exploration, folder, data, json)
    if json:
        return
    for counts in exploration.figures.splits:
        empty = f"{counts.num_empty} of them without a box"
        typer.echo(f"{counts.name}: {counts.num_images} images, {empty}; {counts.num_boxes} boxes")
    if skipped:
        typer.echo(f"{len(skipped)} bad records, the first: {skipped[0]}")
    _tell(exploration)
    typer.echo(f"Everything on one page: {folder / 'index.html'}")


def free_folder(home: Path, name: str, data: str) -> Path:
    """A folder of its own for each data set; the same one when it is looked at again."""
    import re

    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
    number = 1
    while True:
        folder = home / (plain if number == 1 else f"{plain}-{number}")
        if not folder.exists() or _looked_at(folder) in (_where(data), None):
            return folder
        number += 1


def _looked_at(folder: Path) -> str | None:
    try:
        return str(json_module.loads((folder / "exploration.json").read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _where(data: str) -> str:
    return str(Path(data).resolve()) if Path(data).exists() else data


def _finish(exploration: Exploration, folder: Path, data: str, json: bool) -> None:
    """The same figures as JSON, beside the page, and on stdout if asked for."""
    from boxtune.evaluation.page.render import write_page

    text = json_module.dumps({"data": _where(data), **exploration.to_dict()}, ensure_ascii=False, indent=1)
    write_page(folder / "exploration.json", text + "\n")
    if json:
        typer.echo(text.encode("utf-8", "replace").decode())


def _tell(exploration: Exploration) -> None:
    """What wants to be looked at, a line each."""
    for doubt in exploration.doubts:
        some = ", ".join(doubt.examples[:3])
        typer.echo(f"{doubt.kind}: {doubt.count}, {doubt.meaning}, as in {some}")
    copies, lengths = exploration.copies, exploration.lengths
    if copies is not None and copies.num_across + copies.num_within:
        typer.echo(f"pictures that come twice: {copies.num_across} pairs across splits, {copies.num_within} within one")
    if lengths is not None:
        above = f"; {lengths.num_too_long} above collator.max_length={lengths.max_length}" if lengths.max_length else ""
        typer.echo(f"tokens of a conversation: median {lengths.median:.0f}, longest {lengths.longest}{above}")


def _encoder(
    config: Path | None, model: str | None, overrides: list[str] | None, labels: tuple[str, ...]
) -> SampleEncoder | None:
    """Of the model that a run with these settings would train; None where there is none and none was asked for."""
    from boxtune.cli.inspect_tokens import collator_of_run
    from boxtune.config.load import load_config
    from boxtune.errors import ModelError

    named = [] if model is None else [f"model.name={model}"]
    settings = load_config(config, [*named, *(overrides or [])])
    try:
        return collator_of_run(settings, labels).encoder
    except ModelError:
        if model is None and config is None and not overrides:
            typer.echo("No embedded model here, so tokens are not counted: say --model.", err=True)
            return None
        raise
