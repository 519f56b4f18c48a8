"""The plan of the house: who may import whom, how files are named, what `import boxtune` costs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import boxtune
from boxtune.config.schema import Config, Section

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "boxtune"
FILES = sorted(SOURCE.rglob("*.py"))

# What each room may import, besides itself. "Who may import whom" in the design, written out.
FOUNDATION = {"detections", "errors", "console", "processes", "documents", "hub", "whole_files"}
UP_TO_CONFIG = FOUNDATION | {"config"}
UP_TO_GROUNDING = UP_TO_CONFIG | {"grounding"}
UP_TO_COLLATORS = UP_TO_GROUNDING | {"data", "losses", "models", "collators"}
UP_TO_EVALUATION = UP_TO_COLLATORS | {"inference", "evaluation"}
UP_TO_TRAINING = UP_TO_EVALUATION | {"training"}
MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "console": set(),
    "hub": set(),
    "documents": set(),
    "processes": set(),
    "whole_files": set(),
    "detections": {"errors"},
    "config": FOUNDATION,
    "grounding": UP_TO_CONFIG,
    "data": UP_TO_GROUNDING,
    "models": UP_TO_GROUNDING,
    "losses": FOUNDATION,
    "collators": UP_TO_GROUNDING | {"data", "losses", "models"},
    "inference": UP_TO_COLLATORS,
    "evaluation": UP_TO_COLLATORS | {"inference"},
    "inspection": UP_TO_EVALUATION,
    "training": UP_TO_EVALUATION | {"inspection"},
    "publishing": UP_TO_COLLATORS | {"inference"},
    "serve": UP_TO_COLLATORS | {"inference"},
    "app": UP_TO_EVALUATION | {"serve"},
    "cli": UP_TO_TRAINING | {"inspection", "serve", "app", "publishing"},
    "__main__": {"cli"},
}
NO_TORCH = ("errors", "detections", "grounding", "config")


def imported_modules(file: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it."""
    package = ["boxtune", *file.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            if module == "boxtune":
                yield from (f"boxtune.{alias.name}" for alias in node.names)


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_room_imports_only_rooms_below_it():
    wrong = [
        f"{file.relative_to(SOURCE)} imports {module}"
        for file in FILES
        for module in imported_modules(file)
        if module.startswith("boxtune.")
        and (room := module.split(".")[1]) in MAY_IMPORT
        and room not in MAY_IMPORT[room_of(file)] | {room_of(file)}
    ]
    assert wrong == []


def test_words_reach_the_terminal_as_they_are():
    """Names that users give hold brackets and colons, which rich takes for markup: text is printed by `say`."""
    wrong = [
        f"{file.relative_to(SOURCE)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "attr", "") == "print" or getattr(node.func, "id", "") == "escape")
        and any(isinstance(part, ast.JoinedStr | ast.Constant | ast.BinOp) for part in node.args)
        and room_of(file) != "console"
        and not any(name.endswith("charts.py") for name in (file.name,))
    ]
    assert wrong == []


def test_torch_stays_out_of_the_light_rooms():
    wrong = [
        str(file.relative_to(SOURCE))
        for file in FILES
        if room_of(file) in NO_TORCH and any(module.split(".")[0] == "torch" for module in imported_modules(file))
    ]
    assert wrong == []


def test_losses_know_only_torch():
    modules = {module.split(".")[0] for file in FILES if room_of(file) == "losses" for module in imported_modules(file)}
    assert not modules & {"transformers", "trl", "peft", "accelerate"}


@pytest.mark.parametrize("heavy", ["torch", "transformers"])
def test_import_is_light(heavy):
    code = (
        "import sys, boxtune, boxtune.errors, boxtune.config.load, boxtune.cli.main; boxtune.Detections; "
        f"boxtune.family('qwen2_5_vl'); sys.exit('{heavy}' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_modules_are_named_by_what_they_know():
    names = {file.stem for file in SOURCE.rglob("*")}
    assert not names & {"util", "utils", "helper", "helpers", "misc", "common"}


def test_files_are_short():
    lengths = {str(file.relative_to(SOURCE)): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


@pytest.mark.parametrize("name", boxtune.__all__)
def test_public_name_resolves(name):
    assert getattr(boxtune, name) is not None


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = boxtune.nothing


def test_every_module_can_be_imported():
    for file in FILES:
        parts = file.relative_to(SOURCE.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            importlib.import_module(".".join(parts).removesuffix(".__init__"))


def config_fields(section: type, path: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            yield from config_fields(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}"


# read as a whole section (`model_dump()`), or by a name that is put together
READ_BY_SECTION = {
    "trainer.rates.": r"trainer\.rates\.model_dump\(\)",
    "adapter.lora.": r"LowRank\(\*\*config\.adapter\.lora\.model_dump\(\)\)",
    "detection_head.loss.": r"config\.detection_head\.loss\.model_dump\(\)",
    "detection_head.": r"config\.detection_head\.model_dump\(exclude=\{\"loss\"\}\)",
    "adapter.": r"getattr\(config\.adapter, area\)",
    "logging.": r"config\.logging\.model_dump\(\)",
}


def test_every_setting_is_read_outside_config():
    """A setting that nothing reads is a promise that nobody keeps."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in FILES if room_of(file) not in ("config", "__init__"))
    unread = []
    for path in config_fields(Config):
        name = path.rpartition(".")[2]
        read_directly = re.search(rf"\.{name}\b(?!\s*\()", text)
        section = next((s for s in READ_BY_SECTION if path.startswith(s)), None)
        if not read_directly and not (section and re.search(READ_BY_SECTION[section], text)):
            unread.append(path)
    assert unread == []


def test_every_section_refuses_unknown_keys():
    sections = [field.annotation for field in Config.model_fields.values() if isinstance(field.annotation, type)]
    open_sections = {s.__name__ for s in sections if hasattr(s, "model_fields") and not issubclass(s, Section)}
    assert open_sections == {"TrainerConfig"}  # passes other names on to transformers, see config/checks.py


def test_no_address_of_a_package_registry_is_kept():
    """Where packages come from is the machine's business, not the repository's."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    registry = re.compile(r"https?://[^\s\"']*(pypi|/simple\b|registry|pythonhosted|artifactory|download\.pytorch)")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file() or path.stat().st_size > 2_000_000:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {match[0]}" for match in registry.finditer(text)]
    assert found == []
