"""Where values come from, and what is said about those that are wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from boxtune.config.load import flatten, load_config, load_with_origins, to_yaml
from boxtune.config.schema import Config
from boxtune.errors import ConfigError


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def layered(tmp_path: Path) -> Path:
    """A file with a base in another folder; each layer sets one key that the next sets too."""
    written(tmp_path, "base.yaml", "trainer: {seed: 1, weight_decay: 0.1, save_total_limit: 5}\n")
    return written(tmp_path, "runs/mine.yaml", "base: ../base.yaml\ntrainer: {seed: 2, weight_decay: 0.2}\n")


def test_nothing_given_is_all_defaults():
    assert load_config() == Config()


def test_later_layers_win(layered: Path):
    trainer = load_config(layered, ["trainer.seed=3"]).trainer
    assert (trainer.seed, trainer.weight_decay, trainer.save_total_limit, trainer.schedule) == (3, 0.2, 5, "cosine")


def test_the_last_of_two_overrides_wins():
    assert load_config(None, ["trainer.seed=3", "trainer.seed=4"]).trainer.seed == 4


def test_origins_name_the_layer(layered: Path):
    _, origins = load_with_origins(layered, ["trainer.seed=3"])
    assert origins["trainer.seed"] == "command line"
    assert origins["trainer.weight_decay"] == str(layered)
    assert origins["trainer.save_total_limit"].endswith("base.yaml")
    assert origins["trainer.schedule"] == "default"


def test_every_key_has_an_origin(layered: Path):
    config, origins = load_with_origins(layered)
    assert list(origins) == [key for key, _ in flatten(config.model_dump())]


def test_an_empty_file_changes_nothing(tmp_path: Path):
    assert load_config(written(tmp_path, "a.yaml", "")) == Config()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainer.learning_rate=1e-4", 1e-4),
        ("trainer.learning_rate=0.001", 1e-3),
        ("trainer.learning_rate=auto", "auto"),
        ("data.path=folder with spaces", "folder with spaces"),
        ("data.path=synthetic:nutrition?n=3&seed=1", "synthetic:nutrition?n=3&seed=1"),
        ("data.path=null", None),
        ("data.flip=[horizontal]", ("horizontal",)),
        ("grounding.prompt=Find {labels} = all of them", "Find {labels} = all of them"),
        ("logging.wandb=true", True),
    ],
)
def test_values_of_overrides(override: str, expected: object):
    section, _, key = override.partition("=")[0].partition(".")
    assert getattr(getattr(load_config(None, [override]), section), key) == expected


@pytest.mark.parametrize("text", ["trainer.seed", "=3", "", "3"])
def test_an_override_needs_key_and_value(text: str):
    with pytest.raises(ConfigError, match=r"is not KEY=VALUE, for example"):
        load_config(None, [text])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("outputdir=a", "Did you mean 'output_dir'?"),
        ("modle.name=a", "Did you mean 'model'?"),
        ("collator.max_lenght=100", "Did you mean 'collator.max_length'?"),
        ("adapter.lora.ranks=8", "Did you mean 'adapter.lora.rank'?"),
        ("model.learning_rate=1", "Did you mean 'trainer.learning_rate'?"),
        ("evaluation.zzz=1", "Known: at_end, batch_size"),
        ("max_pixel=1", "Did you mean 'model.max_pixels'?"),
        ("epochs=1", "Did you mean 'trainer.num_train_epochs'?"),
    ],
)
def test_an_unknown_key_names_the_nearest(override: str, said: str):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    message = str(caught.value)
    assert message.startswith("Unknown key '")
    assert said in message
    assert "(command line)" in message


def test_an_unknown_key_names_its_file(tmp_path: Path):
    path = written(tmp_path, "a.yaml", "data: {pat: x}\n")
    with pytest.raises(ConfigError, match=r"Unknown key 'data.pat' \(.*a\.yaml\)\. Did you mean 'data.path'\?"):
        load_config(path)


def test_a_name_of_the_trainer_is_left_to_the_checks():
    """Other names may be TrainingArguments, which are too heavy to import for a look at a file."""
    assert load_config(None, ["trainer.adam_beta2=0.98"]).trainer.passed_on == {"adam_beta2": 0.98}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.seed=many", ["trainer.seed = 'many' (command line)", "must be a whole number"]),
        ("trainer.stability.snapshot_steps=0", ["must be 1 or more or 'auto' or null."]),
        ("trainer.minutes=0", ["trainer.minutes = 0 (command line)", "must be above 0 or null."]),
        ("trainer.minutes=-1", ["trainer.minutes = -1 (command line)", "must be above 0 or null."]),
        ("trainer.minutes=inf", ["trainer.minutes = 'inf' (command line)", "must be a finite number"]),
        ("trainer.minutes=nan", ["trainer.minutes = 'nan' (command line)", "must be a finite number"]),
        ("trainer.learning_rate=.inf", ["trainer.learning_rate = inf", "must be a finite number or 'auto'"]),
        ("trainer.weight_decay=.nan", ["trainer.weight_decay = nan", "must be a finite number"]),
        ("data.val_fraction=.nan", ["data.val_fraction = nan", "must be a finite number"]),
        ("evaluation.every=.nan", ["evaluation.every = nan", "a finite number"]),
        ("data.val_fraction=1", ["data.val_fraction = 1", "must be below 1."]),
        ("collator.labels=answers", ["collator.labels = 'answers'", "'assistant' or 'all_text'"]),
        ("model.max_pixels=big", ["model.max_pixels = 'big'", "must be a whole number or 'auto'."]),
        ("adapter.vision=none", ["adapter.vision = 'none'", "'frozen', 'lora' or 'full'"]),
    ],
)
def test_a_wrong_value_says_key_origin_and_what_is_right(override: str, parts: list[str]):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "boxtune inspect config" in message
    assert "\n" not in message


def test_every_number_is_finite():
    for section in [Config(), *(part for _, part in sections(Config()))]:
        for name in type(section).model_fields:
            for wrong in (math.inf, -math.inf, math.nan):
                with pytest.raises(ValidationError):
                    type(section).model_validate({name: wrong})


def sections(tree: BaseModel):
    """Every section below one, with its name."""
    for name, part in tree:
        if isinstance(part, BaseModel):
            yield name, part
            yield from sections(part)


def test_all_wrong_values_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["trainer.seed=x", "data.val_fraction=7"])
    assert "trainer.seed" in str(caught.value)
    assert "data.val_fraction" in str(caught.value)


@pytest.mark.parametrize("override", ["trainer=fast", "adapter.lora=16"])
def test_a_section_is_no_value(override: str):
    with pytest.raises(ConfigError, match="is a section: write"):
        load_config(None, [override])


def test_only_one_level_of_base(layered: Path):
    third = written(layered.parent, "third.yaml", "base: mine.yaml\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml is the base of .*third\.yaml and has a base itself"):
        load_config(third)


def test_a_missing_base_is_named(tmp_path: Path):
    path = written(tmp_path, "a.yaml", "base: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"No configuration file at .*gone\.yaml"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"No configuration file at .*none\.yaml: check the path"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\tx: 1"])
def test_no_yaml(tmp_path: Path, text: str):
    with pytest.raises(ConfigError, match=r"a\.yaml is not YAML: ") as caught:
        load_config(written(tmp_path, "a.yaml", text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model: &m {name: embedded}\ndata: *m\n",
            r"\*m in line 2 .* Anchors and aliases are not taken.* Write the value out",
        ),
        ("model: {name: a, name: b}", r"a key stands twice \(line 1, column 8\)"),
    ],
)
def test_yaml_that_is_not_taken(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError, match=rf"a\.yaml has what is not taken here: .*{said}"):
        load_config(written(tmp_path, "a.yaml", text))


def test_bytes_that_are_no_text(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(path)


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("just words\n", "str"), ("3\n", "int")])
def test_no_mapping_at_the_top(tmp_path: Path, text: str, kind: str):
    with pytest.raises(ConfigError, match=f"must hold `section: .*not a {kind}"):
        load_config(written(tmp_path, "a.yaml", text))


def test_saved_form_loads_equal(tmp_path: Path):
    overrides = ["grounding.prompt=Où est {labels} ?", "trainer.adam_beta2=0.98", "data.flip=[vertical]"]
    config = load_config(None, overrides)
    assert load_config(written(tmp_path, "saved.yaml", to_yaml(config))) == config


def test_a_configuration_never_changes():
    with pytest.raises(ValueError, match="frozen"):
        load_config().trainer.seed = 3  # type: ignore[misc]
