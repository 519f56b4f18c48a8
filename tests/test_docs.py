"""The documents say what is true: commands parse, keys exist, YAML loads, Python compiles, names are those of the code.

Links between the pages of the site and their anchors are checked when it is built (`make docs`).
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import boxtune
from boxtune.cli.main import app
from boxtune.config.load import flatten, load_config
from boxtune.config.recipes import find_recipe
from boxtune.config.schema import Config

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "boxtune"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "configs/README.md", "notebooks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
EXAMPLES = [*PAGES, *sorted((ROOT / "configs").rglob("*.yaml"))]  # those say in their first lines how to run them
KEYS = {key for key, _ in flatten(Config().model_dump())} | {"output_dir", "recipe"}
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}
SAID_IN_PART = ("MissingParameter", "BadOptionUsage")  # `boxtune train --config`: the rest is the reader's
# they begin as a key would, but are modules of transformers and files
NO_KEY = re.compile(r"model\.(visual|language_model|layers|safetensors)\b|[a-z_]+\.(py|yaml|json|safetensors)$")
PLACEHOLDER = re.compile(r"[A-Z]{2,}|…|\.\.\.")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=named)
each_example = pytest.mark.parametrize("page", EXAMPLES, ids=named)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """`(language, text)` of fenced and indented blocks; of a YAML file its first lines of comment."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".yaml":
        yield "", "\n".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        return
    yield from re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for indented in re.findall(r"(?:^ {4}.*\n?)+", outside, re.MULTILINE):
        yield "", re.sub("^ {4}", "", indented, flags=re.MULTILINE)


def code_spans(page: Path) -> list[str]:
    outside = re.sub(r"^(```.*?^```| {4}.*?$)", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.replace("\\|", "|").split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", outside)]


def command_lines(page: Path) -> Iterator[str]:
    for language, text in blocks(page):
        if language in ("", "bash"):
            for line in text.replace("\\\n", " ").splitlines():
                if re.match(r"(boxtune|torchrun|accelerate launch)\b", line):
                    yield line


@functools.cache
def root_command() -> Any:
    return typer.main.get_command(app)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and its own words."""
    command = root_command()
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"no command '{words[0]}'"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def own_words(line: str) -> list[str]:
    """What boxtune itself is told, behind a launcher or not."""
    words = shlex.split(line, comments=True)
    return words[words.index("boxtune") + 1 :]


def check_values(values: dict[str, Any]) -> None:
    config, recipe = values.get("config"), values.get("recipe")
    if config is not None and str(config).startswith("configs/"):
        assert (ROOT / config).is_file(), f"no file {config}"
    if recipe is not None and not PLACEHOLDER.search(recipe):
        find_recipe(recipe)
    for setting in values.get("overrides") or values.get("settings") or []:
        check_setting(setting)


def check_setting(setting: str) -> None:
    key, _, value = setting.partition("=")
    if key == "KEY.SUB":
        return
    check_key(key)
    if not PLACEHOLDER.search(value):
        load_config(None, [setting])


def looks_like_a_key(word: str) -> bool:
    return bool(re.fullmatch(rf"({'|'.join(SECTIONS)})(\.[a-z_]+)+", word)) and not NO_KEY.match(word)


def check_key(key: str) -> None:
    sections = {known.rpartition(".")[0] for known in KEYS}
    if key in KEYS or key in sections:
        return
    from transformers import TrainingArguments

    section, _, name = key.partition(".")
    passed_on = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert section == "trainer", f"no setting '{key}'"
    assert name in passed_on, f"no setting '{key}'"


@each_example
def test_commands_parse(page):
    for line in command_lines(page):
        command, words = find_command(own_words(line))
        assert not hasattr(command, "commands"), line
        if not PLACEHOLDER.fullmatch(words[-1] if words else ""):
            check_values(command.make_context("boxtune", words).params)


@each_page
def test_commands_within_sentences_have_options_that_exist(page):
    for span in code_spans(page):
        if not span.startswith("boxtune "):
            continue
        words = [word.split("|")[0] for word in shlex.split(span)[1:] if word not in ("…", "...", "--help")]
        command, words = find_command(words)
        if hasattr(command, "commands"):
            continue
        try:
            check_values(command.make_context("boxtune", list(words)).params)
        except Exception as error:  # typer has an own copy of click, whose classes have no public home
            if type(error).__name__ not in SAID_IN_PART:
                raise


@each_page
def test_options_within_sentences_exist(page):
    known = {"--help", "--debug", *(name for _, command in all_commands() for name in options(command))}
    theirs = {"--log-dir", "--redirects", "--node_rank", "--ntasks-per-node"}  # of torchrun and Slurm
    theirs |= {"--cpu", "--multi_gpu", "--num_processes", "--num_machines", "--machine_rank"}  # of accelerate
    theirs |= {"--main_process_ip", "--main_process_port"}
    for span in code_spans(page):
        if span.startswith("--"):
            assert span.split()[0].partition("=")[0] in known | theirs, span


def all_commands(command: Any = None, name: str = "boxtune") -> Iterator[tuple[str, Any]]:
    command = command or root_command()
    for child_name, child in getattr(command, "commands", {}).items():
        yield from all_commands(child, f"{name} {child_name}")
    if not hasattr(command, "commands"):
        yield name, command


def options(command: Any) -> list[str]:
    return [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]


@each_page
def test_keys_within_sentences_exist(page):
    for span in code_spans(page):
        for word in span.split():
            key = word.partition("=")[0]
            if looks_like_a_key(key) and page.name != "names.md":  # whose left column is another program's
                check_key(key)


@each_page
def test_yaml_loads(page, tmp_path):
    for number, text in enumerate(text for language, text in blocks(page) if language == "yaml"):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        load_config(file)


@each_page
def test_python_compiles_and_its_names_are_there(page):
    for text in (text for language, text in blocks(page) if language == "python" and "import" in text):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            elif is_public(node):
                assert node.attr in boxtune.__all__, node.attr
            elif isinstance(node, ast.Call) and is_public(node.func):
                inspect.signature(getattr(boxtune, node.func.attr)).bind_partial(
                    *node.args, **{str(keyword.arg): keyword.value for keyword in node.keywords}
                )


def is_public(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "boxtune"


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "configs/README.md", "notebooks/README.md", "CHANGELOG.md"]
)
def test_links_of_pages_outside_the_site(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(file), f"{name}: {target}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_files_name_documents_that_are_there():
    """In error messages, comments and notebooks."""
    places = [
        path
        for folder in ("src", "tests", "benchmarks", "pretraining", "notebooks", "configs")
        for path in (ROOT / folder).rglob("*")
    ]
    wrong = [
        f"{named(path)}: {found}"
        for path in places
        if path.suffix in (".py", ".yaml", ".md", ".ipynb", ".html") and path.is_file() and path != Path(__file__)
        for found in re.findall(r"\bdocs/[\w/-]+\.(?:md|py)\b", path.read_text(encoding="utf-8"))
        if not (ROOT / found).is_file()
    ]
    assert wrong == []


def test_names_of_the_study_notebook_lead_to_names_of_ours():
    """The right column of docs/names.md: files, settings, and dotted names below `boxtune`."""
    rows = (ROOT / "docs" / "names.md").read_text(encoding="utf-8").replace("\\|", "").splitlines()
    ours = [span for row in rows if row.count(" | ") == 1 for span in re.findall(r"`([^`]+)`", row.partition(" | ")[2])]
    files = [span for span in ours if re.fullmatch(r"[\w/.-]+(\.py|\.yaml|/)", span)]
    named = [span.partition("(")[0] for span in ours if re.fullmatch(r"[a-z_]+(\.\w+)+(\(.*\))?", span)]
    dotted = [name for name in named if not re.search(r"\.(py|yaml|json|html|txt|toml|jpg)$", name)]
    homes = [SOURCE, ROOT, ROOT / "configs"]
    assert len(files) > 30
    assert len(dotted) > 40
    assert [file for file in files if not any((home / file).exists() for home in homes)] == []
    assert [name for name in dotted if not is_setting(name) and not resolves(name)] == []


def is_setting(name: str) -> bool:
    try:
        check_key(name)
    except AssertionError:
        return False
    return True


def resolves(name: str) -> bool:
    """Whether a name, of torch or below `boxtune`, can be reached: modules as far as there are, then attributes."""
    path = name if name.startswith(("boxtune.", "torch.")) else f"boxtune.{name}"
    first, *rest = itertools.accumulate(path.split("."), lambda before, part: f"{before}.{part}")
    found: Any = importlib.import_module(first)
    for place in rest:
        part = place.rpartition(".")[2]
        if not hasattr(found, part):
            try:
                importlib.import_module(place)
            except ImportError:
                return False
        found = getattr(found, part)
    return True


# ---- pages that are made from the code ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "docs" / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_lists_every_command_with_every_option(reference_pages):
    sections = dict(re.findall(r"^## (boxtune [a-z ]+)\n(.*?)(?=^## |\Z)", reference_pages.commands(), re.M | re.S))
    assert set(sections) == {name for name, _ in all_commands()}
    for name, command in all_commands():
        missing = [one for one in options(command) if one.startswith("--") and f"{one}`" not in sections[name]]
        assert [one for one in missing if f"{one}," not in sections[name]] == [], name
    train = sections["boxtune train"]
    assert "| `--minutes` | Budget of time the schedule ends in. | number |  |" in train


def test_reference_lists_every_setting_with_its_default(reference_pages):
    listed = dict(re.findall(r"^\| `([a-z0-9_.]+)` \|.*\| ([^|]*) \|$", reference_pages.settings(), re.MULTILINE))
    assert set(listed) == KEYS
    assert listed["adapter.lora.rank"] == "`16`"
    assert listed["trainer.max_steps"] == "`null`"


def test_reference_has_every_public_name_and_every_room(reference_pages):
    text = reference_pages.public_names()
    assert [name for name in boxtune.__all__ if name != "__version__" and f".{name}\n" not in text + "\n"] == []
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(reference_pages.ROOMS) == rooms - {"cli", "__init__", "__main__"}
    assert "::: boxtune.data.formats.coco" in reference_pages.room_page("data")


def test_parts_that_pages_ask_for_are_made(reference_pages):
    asked = {part for page in PAGES for part in reference_pages._MARK.findall(page.read_text(encoding="utf-8"))}
    assert asked == set(reference_pages.PARTS)
