"""The notebooks: pairs in step, free of outputs, short of function, and true in what they name.

`make notebooks` executes them.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

import boxtune
from test_docs import SAID_IN_PART, check_key, check_values, find_command, looks_like_a_key, own_words

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
MAX_FUNCTION_LINES = 15
MAX_CELL_LINES = 50

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def cells_of(script: Path, kind: str) -> list[str]:
    return [cell.source for cell in jupytext.read(script).cells if cell.cell_type == kind]


def code_of(script: Path) -> str:
    return "\n\n".join(cells_of(script, "code"))


def functions_of(code: str) -> dict[str, int]:
    """Name → lines, decorators and docstring included."""
    return {
        node.name: node.end_lineno - min([node.lineno, *(one.lineno for one in node.decorator_list)]) + 1
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


def test_there_are_five():
    assert [script.stem[:2] for script in SCRIPTS] == ["01", "02", "03", "04", "05"]
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == [script.stem for script in SCRIPTS]


@each_script
def test_pair_is_in_step(script):
    """`jupytext --sync notebooks/*.py` mends it."""
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    of_script = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == of_script
    assert notebook.metadata.kernelspec.name == "python3"


@each_script
def test_no_outputs_are_kept(script):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count is not None] == []


@each_script
def test_functions_and_cells_are_short(script):
    code = code_of(script)
    assert {name: lines for name, lines in functions_of(code).items() if lines > MAX_FUNCTION_LINES} == {}
    assert [cell for cell in cells_of(script, "code") if len(cell.splitlines()) > MAX_CELL_LINES] == []


def test_a_long_function_would_be_seen():
    code = "@one\ndef f():\n" + "    x = 1\n" * 14
    assert functions_of(code) == {"f": 16}


@each_script
def test_names_of_boxtune_exist(script):
    """Sooner told than by an execution that takes minutes."""
    for node in ast.walk(ast.parse(code_of(script))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("boxtune"):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "boxtune":
            assert node.attr in boxtune.__all__


@each_script
def test_links_lead_to_files(script):
    text = "\n".join(cells_of(script, "markdown"))
    links = re.findall(r"\]\(([^)#]+)", text)
    assert [link for link in links if not (FOLDER / link).is_file()] == []
    files = [path for path in re.findall(r"\bconfigs/[\w/-]+\.yaml", text) if not (FOLDER.parent / path).is_file()]
    assert files == []


@pytest.mark.parametrize("place", range(5))
def test_each_links_its_neighbours(place):
    text = "\n".join(cells_of(SCRIPTS[place], "markdown"))
    for neighbour in {max(0, place - 1), min(4, place + 1)} - {place}:
        assert f"({SCRIPTS[neighbour].stem}.ipynb)" in text


@each_script
def test_commands_and_keys_in_the_prose_exist(script):
    text = "\n".join(cells_of(script, "markdown"))
    spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    lines = re.findall(r"^ {4}(boxtune .*)$", text, re.MULTILINE)
    for line in [*(span for span in spans if span.startswith("boxtune ")), *lines]:
        command, words = find_command([word for word in own_words(line) if word != "…"])
        try:
            check_values(command.make_context("boxtune", list(words)).params)
        except Exception as error:  # typer has an own copy of click, whose classes have no public home
            if type(error).__name__ not in SAID_IN_PART:
                raise
    for key in (word.partition("=")[0] for span in spans for word in span.split()):
        if looks_like_a_key(key):
            check_key(key)


@each_script
def test_each_says_what_to_change_for_a_large_model(script):
    text = "\n".join(cells_of(script, "markdown"))
    assert "7B model" in text
    assert "GPU" in text
