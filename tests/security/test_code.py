"""Nothing that comes with a model, a configuration or a data set is run; only the user can let a model's code run."""

from __future__ import annotations

import ast
import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import boxtune
from boxtune.config.checks import check_config
from boxtune.config.load import load_config
from boxtune.data.dataset import load_dataset
from boxtune.errors import BoxtuneError, ModelError
from boxtune.inference.detector import load_detector
from boxtune.inspection.skeleton import load_skeleton
from boxtune.models import strangers
from boxtune.models.load import load_model
from boxtune.models.places import load_config as load_model_config

SOURCES = sorted(Path(boxtune.__file__).parent.rglob("*.py"))
AUTO_MAP = {
    "AutoConfig": "stranger.Stranger",
    "AutoModel": "stranger.Stranger",
    "AutoModelForImageTextToText": "stranger.Stranger",
    "AutoProcessor": "stranger.Stranger",
    "AutoImageProcessor": "stranger.Stranger",
    "AutoTokenizer": ["stranger.Stranger", "stranger.Stranger"],
}


@pytest.fixture
def with_code(tiny_folder, tmp_path):
    """A copy of the model that brings a module, which a file of settings names."""

    def make(file: str, **settings: object) -> Path:
        folder = shutil.copytree(tiny_folder, tmp_path / "model")
        path = folder / file
        content = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**content, "auto_map": AUTO_MAP, **settings}))
        (folder / "stranger.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'trace')!r})\nclass Stranger: pass\n")
        return folder

    return make


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", {}),
        ("tokenizer_config.json", {"tokenizer_class": "Stranger"}),
        ("processor_config.json", {"processor_class": "Stranger"}),
        ("preprocessor_config.json", {"image_processor_type": "Stranger"}),
    ],
)
def test_code_of_a_model_is_not_run(with_code, tmp_path, file, settings):
    folder = str(with_code(file, **settings))
    for load in (load_model, load_skeleton, load_detector):
        with contextlib.suppress(ModelError):
            load(folder)
    assert not (tmp_path / "trace").exists()


def test_code_that_the_user_lets_run_is_announced(with_code, tmp_path, capsys):
    strangers.say_that_code_may_run.cache_clear()
    folder = with_code("config.json")
    with pytest.raises((BoxtuneError, AttributeError)):  # it makes no configuration, but it has run
        load_model_config(str(folder), trust_remote_code=True)
    assert (tmp_path / "trace").exists()
    said = " ".join(capsys.readouterr().err.split())
    assert f"code that comes with '{folder}' may run, and may do all that you may do" in said


def test_nothing_is_announced_where_no_code_may_run(tiny_folder, capsys):
    strangers.say_that_code_may_run.cache_clear()
    load_model(str(tiny_folder))
    assert "may run" not in capsys.readouterr().err


@pytest.mark.parametrize("part", [None, "text_config", "vision_config"])
def test_kernels_that_a_model_names_are_not_fetched(tiny_folder, tmp_path, part):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    asked = dict.fromkeys(("attn_implementation", "_attn_implementation", "experts_implementation"), "stranger/kernel")
    (content if part is None else content[part]).update(asked)
    (folder / "config.json").write_text(json.dumps(content))
    assert load_model(str(folder)).model.config.get_text_config()._attn_implementation == "sdpa"
    assert load_skeleton(str(folder)).model.config.get_text_config()._attn_implementation != "stranger/kernel"


@pytest.mark.parametrize("setting", ["num_hidden_layers", "depth"])
def test_a_model_without_end_is_refused_at_once(tiny_folder, tmp_path, setting):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    content = json.loads((folder / "config.json").read_text())
    content["vision_config" if setting == "depth" else "text_config"][setting] = 10**9
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"says {setting} 1e\+09"):
        load_model(str(folder))


TEMPLATES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.mkdir('TRACE') }}",
    "attr": "{{ lipsum|attr('__globals__') }}",
    "format": "{{ '{0.__class__}'.format(1).x() }}",
    "import": "{% include '/etc/passwd' %}",
    "range": "{% for i in range(10**9) %}x{% endfor %}",
    "append": "{{ messages.append(1) }}",
    "endless": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "syntax": "{% if %}",
    "raised": "{{ raise_exception('a\\nb') }}",
    "undefined": "{{ a.b.c }}",
    "zero": "{{ 1 / 0 }}",
    "type": "{{ 1 + 'a' }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_chat_template_runs_in_a_sandbox(tiny_folder, tmp_path, template):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template.replace("TRACE", str(tmp_path / "trace")))
    detector = load_detector(str(folder), device="cpu")
    with pytest.raises(BoxtuneError) as caught:
        detector.detect([Image.new("RGB", (64, 64))], labels=["a"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trace").exists()


YAML_TAGS = [
    "!!python/object/apply:os.mkdir [TRACE]",
    "!!python/object/new:os.mkdir [TRACE]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1]",
]


@pytest.mark.parametrize("tag", YAML_TAGS)
def test_yaml_makes_no_objects(tmp_path, cli, tag):
    tag = tag.replace("TRACE", str(tmp_path / "trace"))
    config, data = tmp_path / "config.yaml", tmp_path / "data"
    config.write_text(f"model:\n  name: {tag}\n")
    data.mkdir()
    (data / "data.yaml").write_text(f"train: .\nnames: {tag}\n")
    with pytest.raises(BoxtuneError, match=r"not taken here: .*constructor"):
        load_config(config)
    with pytest.raises(BoxtuneError, match=r"not taken here: .*constructor"):
        load_dataset(data)
    assert load_config(None, [f"model.name={tag}"]).model.name == tag  # text, as said
    assert not (tmp_path / "trace").exists()


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "imp"}
ALLOWED = {  # file → what of the above it has, and why that is no way in
    "models/places.py": {"pickle"},  # the name of an exception
    "training/damage.py": {"pickle"},  # the same
}


def test_the_source_opens_no_door():
    """No unpickling, no evaluated text, no unsafe YAML, no shell, no picture of a format that starts programs."""
    found = []
    for file in SOURCES:
        name = file.relative_to(Path(boxtune.__file__).parent).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            found += [f"{name}:{node.lineno} {what}" for what in doors(node) - ALLOWED.get(name, set())]
    assert found == []


def doors(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_MODULES
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").split(".")[0]} & FORBIDDEN_MODULES
    if not isinstance(node, ast.Call):
        return set()
    called, keywords = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    wrong = {called} & (FORBIDDEN_CALLS | {"os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "np.load"})
    if called == "yaml.load" and keywords.get("Loader") != "_DataLoader":
        wrong.add(called)
    if called == "torch.load" and keywords.get("weights_only") != "True":
        wrong.add(called)
    if called == "Image.open" and keywords.get("formats") != "IMAGE_FORMATS":
        wrong.add(called)
    if keywords.get("shell") == "True":
        wrong.add(f"{called}(shell=True)")
    if called.endswith("from_pretrained") and keywords.get("trust_remote_code") == "True":
        wrong.add(called)
    return wrong


@pytest.mark.parametrize(
    ("code", "is_door"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=True)", False),
        ("yaml.load(text, Loader=yaml.Loader)", True),
        ("Image.open(path)", True),
        ("import pickle", True),
        ("from pickle import loads", True),
        ("subprocess.run('a', shell=True)", True),
        ("model.eval()", False),
        ("eval(text)", True),
    ],
)
def test_doors_are_known(code, is_door):
    assert any(doors(node) for node in ast.walk(ast.parse(code))) == is_door


def test_a_config_names_no_hub_to_write_to():
    """A stranger's configuration cannot have a run pushed anywhere in the user's name."""
    with pytest.raises(BoxtuneError, match="push_to_hub"):
        check_config(load_config(None, ["trainer.push_to_hub=true", "data.path=x", "output_dir=y"]))


def test_modules_of_the_working_folder_are_not_imported(tmp_path):
    """A data set's folder may be the working one, and may hold a module with the name of one that boxtune needs."""
    (tmp_path / "yaml.py").write_text("raise SystemExit('taken from the working folder')")
    (tmp_path / "torch.py").write_text("raise SystemExit('taken from the working folder')")
    program = Path(sys.executable).with_name("boxtune")
    done = subprocess.run([program, "recipes"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
