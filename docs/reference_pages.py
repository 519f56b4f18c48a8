"""What of the documentation is made from the code when the site is built, so that it cannot go stale.

mkdocs calls the functions `on_…` (`hooks` in mkdocs.yml). A page asks for a part by a line of its own,
`<!-- made from the code: commands -->`; `PARTS` lists them. Pages of the rooms are made whole, notebooks are copied.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard, get_args, get_origin

import typer
from pydantic import BaseModel
from typer.models import ArgumentInfo, ParameterInfo

import boxtune
from boxtune.cli.main import app
from boxtune.config import checks
from boxtune.config.schema import Config

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "boxtune"
ROOMS_FOLDER = "reference/rooms"
ROOMS = {  # in the order of the way of one image; the command line has a page of its own
    "detections": "the one value type of boxes",
    "errors": "what a user can mend",
    "console": "words on the terminal, as they are",
    "processes": "several processes at one piece of work",
    "documents": "JSON and YAML of strangers, as data",
    "hub": "whether the hub answers, asked once",
    "whole_files": "files that appear whole or not at all",
    "config": "settings, and where they come from",
    "grounding": "boxes as text, and back",
    "data": "readers, samples, augmentation, synthetic pictures",
    "models": "families, loading, areas, LoRA, 4 bits, merging",
    "losses": "sums and counts",
    "collators": "tokens, labels, batches",
    "inference": "images in, boxes with scores out",
    "evaluation": "figures, intervals, reports, comparisons",
    "inspection": "what is there, before anything is trained",
    "training": "runs, recipes, callbacks",
    "publishing": "a trained model on the hub",
    "serve": "a detector as an HTTP service",
    "app": "a page in the browser to try models",
}
_MARK = re.compile(r"^<!-- made from the code: ([a-z ]+) -->$", re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each room of the source, and the notebooks as they are."""
    from mkdocs.structure.files import File

    for room in ROOMS:
        files.append(File.generated(config, f"{ROOMS_FOLDER}/{room}.md", content=room_page(room)))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.name}", abs_src_path=str(notebook)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the parts where a page asks for them."""
    return _MARK.sub(lambda found: PARTS[found[1]](), markdown)


# ---- command line ----------------------------------------------------------------------------------------------------


def all_commands(of: typer.Typer = app, prefix: str = "boxtune") -> Iterator[tuple[str, Callable[..., Any]]]:
    """`boxtune train`, `boxtune inspect model` …, each with its function."""
    for command in of.registered_commands:
        assert command.callback is not None
        yield f"{prefix} {command.name}", command.callback
    for group in of.registered_groups:
        assert group.typer_instance is not None
        yield from all_commands(group.typer_instance, f"{prefix} {group.name}")


def commands() -> str:
    """A section a command: what it does, and a table of its arguments and options."""
    return "\n\n".join(_command(name, function) for name, function in all_commands())


def _command(name: str, function: Callable[..., Any]) -> str:
    told = re.sub(r"\[/?bold\]", "`", inspect.getdoc(function) or "")
    hints = typing.get_type_hints(function, include_extras=True)
    rows = [_option(p, hints[p.name]) for p in inspect.signature(function).parameters.values()]
    rows.sort(key=lambda row: row[0].startswith("`--"))  # arguments first
    table = _table(("option", "meaning", "value", "default"), rows) if rows else "No options."
    return f"## {name}\n\n{told}\n\n{table}"


def _option(parameter: inspect.Parameter, hint: Any) -> tuple[str, ...]:
    annotation, *extra = typing.get_args(hint)
    info: ParameterInfo = next(one for one in extra if isinstance(one, ParameterInfo))
    flag = annotation is bool
    if isinstance(info, ArgumentInfo):
        name = info.metavar or parameter.name.upper()
    else:
        dashed = f"--{parameter.name.replace('_', '-')}"
        # in `Annotated` typer keeps the first name of an option where its default would be
        said = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
        name = ", ".join(said or ([dashed, f"--no-{dashed[2:]}"] if flag else [dashed]))
    if parameter.default is inspect.Parameter.empty:
        default = "required"
    else:
        default = "" if parameter.default in (None, False) else _code(parameter.default)
    return f"`{name}`", info.help or "", "" if flag else _value_words(annotation, info), default


def _value_words(annotation: Any, info: ParameterInfo) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " ".join(_code(one) for one in typing.get_args(annotation))
    if inner := [one for one in typing.get_args(annotation) if one is not type(None)]:
        return _value_words(inner[0], info)
    name = {str: "text", int: "whole number", float: "number", Path: "path"}[annotation]
    return name + _limits(info.min, info.max)


def _limits(least: Any, most: Any) -> str:
    if least is not None and most is not None:
        return f", {least:g} to {most:g}"
    return "" if least is None and most is None else f" ≥ {least:g}" if least is not None else f" ≤ {most:g}"


# ---- settings --------------------------------------------------------------------------------------------------------


def settings() -> str:
    """A section a part of the configuration, with a table of its keys."""
    own = [_setting(name, Config.model_json_schema()["properties"][name]) for name in ("output_dir", "recipe")]
    parts = [f"## At the top\n\n{_settings_table(own)}"]
    return "\n\n".join([*parts, *_sections(Config)])


def _sections(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        section = field.annotation
        if get_origin(section) is tuple and _is_section(get_args(section)[0]):  # a list of such parts
            section, name = get_args(section)[0], f"{name}[…]"
        if _is_section(section):
            described = section.model_json_schema()["properties"]
            rows = [_setting(f"{prefix}{name}.{key}", one) for key, one in described.items() if _is_leaf(section, key)]
            yield f"## {prefix}{name}\n\n{inspect.getdoc(section)}\n\n{_settings_table(rows)}"
            yield from _sections(section, f"{prefix}{name}.")


def _is_leaf(section: type[BaseModel], key: str) -> bool:
    return not _is_section(section.model_fields[key].annotation)


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _setting(key: str, described: dict[str, Any]) -> tuple[str, ...]:
    return f"`{key}`", described.get("description", ""), _schema_words(described), _code(described.get("default"))


def _settings_table(rows: list[tuple[str, ...]]) -> str:
    return _table(("key", "meaning", "value", "default"), rows)


def _schema_words(schema: dict[str, Any]) -> str:
    """A JSON schema in words: `whole number ≥ 1 or auto`."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_schema_words(one) for one in schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return " ".join(_code(one) for one in schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        return "settings as below"
    if schema["type"] == "array":
        return f"list of {_schema_words(schema['items'])}"
    name = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` `false`"}
    if schema["type"] == "null":
        return "`null`"
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    limits = [
        f"{sign} {'2³²' if value == 2**32 else f'{value:g}'}"
        for sign, value in (("≥", low), (">", above), ("≤", high), ("<", below))
        if value is not None
    ]
    return " ".join([name[schema["type"]], " and ".join(limits)]).strip()


def elsewhere() -> str:
    """Names of `TrainingArguments` that stand elsewhere in our tree."""
    rows = [(f"`{name}`", place) for name, place in checks._ELSEWHERE.items()]
    return _table(("name of `TrainingArguments`", "what to use here"), rows)


# ---- Python ----------------------------------------------------------------------------------------------------------


def public_names() -> str:
    """Every name of `boxtune.__all__`, by its docstring where it is at home."""
    return "\n\n".join(
        f"::: {home}.{name}" for name, home in sorted(boxtune._HOMES.items(), key=lambda one: one[0].lower())
    )


def room_page(room: str) -> str:
    """The modules of a room, each with its docstring, classes and functions."""
    home = SOURCE / room
    files = sorted(home.rglob("*.py")) if home.is_dir() else [home.with_suffix(".py")]
    blocks = [f"# {room}\n\n`boxtune.{room}`: {ROOMS[room]}."]
    for file in files:
        module = ".".join(("boxtune", *file.relative_to(SOURCE).with_suffix("").parts))
        if file.name != "__init__.py" and _has_public_names(file):
            blocks.append(f"::: {module}")
    return "\n\n".join(blocks) + "\n"


def _has_public_names(file: Path) -> bool:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    defined = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return any(not node.name.startswith("_") for node in defined)


# ---- pages that are written elsewhere --------------------------------------------------------------------------------


def _page_of_repository(name: str) -> Callable[[], str]:
    """A file of the repository as a page; links into docs/ lead to pages, links to notebooks to their copies."""

    def text() -> str:
        found = (ROOT / name).read_text(encoding="utf-8")
        found = re.sub(r"\]\((\.\./)?docs/", "](", found)
        return re.sub(r"\]\((\w+\.ipynb)\)", r"](notebooks/\1)", found)

    return text


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def _code(value: Any) -> str:
    if value is None:
        return "`null`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "names elsewhere": elsewhere,
    "public names": public_names,
    "contributing": _page_of_repository("CONTRIBUTING.md"),
    "configuration files": _page_of_repository("configs/README.md"),
    "notebooks": _page_of_repository("notebooks/README.md"),
}
