"""Every YAML file under configs/ can be run as it is: it loads, its parts fit, and what is saved of it loads again."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxtune.config.checks import check_config
from boxtune.config.load import load_config, to_yaml

FOLDER = Path(__file__).resolve().parents[2] / "configs"
LAUNCHERS = FOLDER / "processes"  # for `accelerate launch`, see test_engines.py
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.y*ml") if path.parent != LAUNCHERS)


def test_there_are_files():
    assert {"embedded.yaml", "qwen2_vl_7b.yaml", "lora/lightweight.yaml"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_loads_and_fits(name: str):
    config = load_config(FOLDER / name)
    check_config(load_config(FOLDER / name, [f"data.path={config.data.path or 'somewhere'}"]))


@pytest.mark.parametrize("name", FILES)
def test_saved_form_loads_equal(name: str, tmp_path: Path):
    config = load_config(FOLDER / name)
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(saved) == config


def test_output_folders_differ():
    folders = [load_config(FOLDER / name).output_dir for name in FILES]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("all_text.yaml", "collator.labels", "all_text"),
        ("assistant_only.yaml", "collator.labels", "assistant"),
        ("packed.yaml", "collator.batching", "packed"),
        ("lora/aggressive.yaml", "adapter.lora.rank", 64),
        ("lora/lightweight.yaml", "adapter.lora.rank", 8),
        ("recipes/r1-llm-only.yaml", "recipe", "r1-llm-only"),
        ("recipes/r2-vision-only.yaml", "recipe", "r2-vision-only"),
        ("recipes/r3-two-stage.yaml", "recipe", "r3-two-stage"),
        ("recipes/r4-joint.yaml", "recipe", "r4-joint"),
    ],
)
def test_variants_say_what_their_name_says(name: str, key: str, value: object):
    found: object = load_config(FOLDER / name)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_the_two_label_masks_differ_in_nothing_else():
    all_text, assistant = (load_config(FOLDER / f"{name}.yaml") for name in ("all_text", "assistant_only"))
    same = {"output_dir", "collator"}
    assert all_text.model_dump(exclude=same) == assistant.model_dump(exclude=same)
    assert all_text.collator.model_dump(exclude={"labels"}) == assistant.collator.model_dump(exclude={"labels"})
