"""The command line: help, the mistakes that users make, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from boxtune.cli import main
from boxtune.config.recipes import RECIPES
from boxtune.models.tiny import save_tiny
from training.runs import SHORT, write_coco

COMMANDS = ["quickstart", "train", "evaluate", "predict", "score", "convert", "merge", "recipes", "inspect", "version"]
TINY = "tiny:qwen2_vl"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command):
    result = CliRunner().invoke(main.app, [command, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_list_of_commands_is_whole(cli):
    code, out, _ = cli("--help")
    assert code == 0
    assert [name for name in COMMANDS if name not in out] == []
    commands = [*main.app.registered_commands, *main.app.registered_groups]
    assert {"quickstart", "train", "evaluate", "predict", "score", "convert", "merge", "recipes"} <= {
        c.name for c in commands
    }


@pytest.mark.parametrize("arguments", [[], ["inspect"]], ids=["boxtune", "boxtune inspect"])
def test_no_arguments_show_the_help_and_no_error(arguments, cli):
    _, out, err = cli(*arguments)
    assert "Usage" in out + err
    assert "boxtune: " not in err


def test_help_loads_nothing_heavy():
    script = (
        "import sys; sys.argv = ['boxtune', 'train', '--help']\n"
        "from boxtune.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'boxtune.config'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--minutes" in done.stdout


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Everything that a mistake needs: data sets, model folders and files, right and wrong."""
    root = tmp_path_factory.mktemp("place")
    write_coco(root / "coco", 4)
    (root / "empty").mkdir()
    nothing = write_coco(root / "nothing", 1)
    change(nothing, images=[], annotations=[])
    stray = write_coco(root / "stray", 2)
    change(stray, categories=[{"id": 7, "name": "other"}])
    cut = write_coco(root / "cut", 2)
    (cut / "2.png").write_bytes((cut / "2.png").read_bytes()[:80])
    write_coco(root / "cats", 2, labels=("cat",))
    half = write_coco(root / "half", 2)
    truth = (half / "annotations.json").rename(half / "train.json").read_text()
    (write_coco(root / "train-only", 2) / "annotations.json").rename(root / "train-only" / "train.json")
    (half / "val.json").write_text(truth[: len(truth) // 3])
    (root / "stages" / "stage-2-language").mkdir(parents=True)
    (root / "stages" / "stage-2-language" / "adapter_config.json").write_text("{}")
    (root / "full").mkdir()
    (root / "full" / "notes.txt").write_text("mine")
    (root / "llama").mkdir()
    (root / "llama" / "config.json").write_text('{"model_type": "llama"}')
    (root / "broken.json").write_text('{"images": [')
    Image.new("RGB", (50, 50)).save(root / "photo.png")
    Image.new("RGB", (300, 1)).save(root / "wide.png")
    for folder, num_bad in (("photos", 4), ("no-photos", 2)):
        (root / folder).mkdir()
        for number in range(num_bad):
            (root / folder / f"{number}.png").write_text("no picture")
    Image.new("RGB", (50, 50)).save(root / "photos" / "photo.png")
    save_tiny("qwen2_vl", root / "model", max_pixels=12544)
    contract = {"model_type": "qwen2_vl", "min_pixels": 3136, "max_pixels": 12544, "labels": ["a", "b"]}
    from boxtune.models.families import family

    boxes = family("qwen2_vl").codec.describe()
    (root / "model" / "boxtune.json").write_text(json.dumps({"version": 1, "boxes": boxes, **contract}))
    return root


def change(folder: Path, **parts) -> None:
    path = folder / "annotations.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


TRAIN = ["train", "--model", TINY, "--output-dir", "{out}", *SHORT]
EVALUATE = ["evaluate", "--model", TINY, "--output-dir", "{out}", "--data"]
PREDICT = ["predict", "--model", TINY, "--labels", "a", "--output-dir", "{out}", "--image"]
MISTAKES = {
    "misspelt key": (
        [*TRAIN, "--data", "{in}/coco", "trainer.learning_rat=1"],
        ["trainer.learning_rat", "Did you mean 'trainer.learning_rate'"],
    ),
    "key of transformers": ([*TRAIN, "--data", "{in}/coco", "trainer.optimm=x"], ["trainer.optimm", "optim'"]),
    "no key": ([*TRAIN, "--data", "{in}/coco", "learning_rate"], ["'learning_rate' is not KEY=VALUE"]),
    "value out of range": ([*TRAIN, "--data", "{in}/coco", "trainer.weight_decay=-1"], ["trainer.weight_decay = -1"]),
    "misspelt option": (["train", "--dta", "x"], ["--dta", "--data", "boxtune train --help"]),
    "misspelt command": (["trian"], ["'trian'", "'train'"]),
    "missing option": (["evaluate", "--model", TINY], ["--data", "boxtune evaluate --help"]),
    "no data": (TRAIN, ["--data FOLDER"]),
    "no such folder": ([*TRAIN, "--data", "{in}/cocoo"], ["{in}/cocoo", "Give a folder"]),
    "empty folder": ([*TRAIN, "--data", "{in}/empty"], ["{in}/empty", "looks like no data set"]),
    "empty data set": ([*TRAIN, "--data", "{in}/nothing"], ["{in}/nothing", "no image"]),
    "label not in the class list": ([*TRAIN, "--data", "{in}/stray"], ["category", "Mend", "--on-error skip"]),
    "cut image": ([*TRAIN, "--data", "{in}/cut"], ["2.png", "cut short", "Copy it again"]),
    "no such config": ([*TRAIN, "--config", "{in}/c.yaml"], ["{in}/c.yaml", "check the path"]),
    "config is no YAML": ([*TRAIN, "--config", "{in}/broken.json"], ["broken.json is not YAML"]),
    "damaged split, to train": ([*TRAIN, "--data", "{in}/half"], ["{in}/half/val.json", "cut off", "Write it again"]),
    "damaged split, to judge": ([*EVALUATE, "{in}/half"], ["{in}/half/val.json", "cut off", "Write it again"]),
    "damaged split, of a format": ([*EVALUATE, "{in}/half", "--format", "coco"], ["{in}/half/val.json", "cut off"]),
    "damaged split, to convert": (
        ["convert", "--data", "{in}/half", "--to", "yolo", "--output-dir", "{out}"],
        ["{in}/half/val.json", "cut off"],
    ),
    "damaged split, to look at": (["inspect", "data", "--data", "{in}/half"], ["{in}/half/val.json", "cut off"]),
    "no split to judge by": ([*EVALUATE, "{in}/train-only"], ["'val'", "--split train", "metrics.json"]),
    "endless minutes": ([*TRAIN, "--data", "{in}/coco", "--minutes", "inf"], ["trainer.minutes = 'inf'", "finite"]),
    "no minutes": ([*TRAIN, "--data", "{in}/coco", "--minutes", "nan"], ["trainer.minutes = 'nan'", "finite"]),
    "score that is no number": ([*PREDICT, "{in}/photo.png", "--min-score", "nan"], ["--min-score nan"]),
    "hub data, offline": ([*TRAIN, "--data", "some-owner/some-data"], ["some-owner/some-data"]),
    "output folder in use": (
        ["train", "--data", "{in}/coco", "--output-dir", "{in}/full"],
        ["{in}/full is not empty", "another --output-dir"],
    ),
    "output is a file": (
        ["train", "--data", "{in}/coco", "--output-dir", "{in}/photo.png"],
        ["photo.png is a file", "another --output-dir"],
    ),
    "short name of a recipe": (
        [*TRAIN, "--data", "{in}/coco", "--recipe", "r1", "adapter.vision=full"],
        ["adapter.vision=full contradicts recipe=r1-llm-only"],
    ),
    "no such recipe": ([*TRAIN, "--data", "{in}/coco", "--recipe", "r9"], ["Unknown recipe 'r9'. Known: r1-llm-only"]),
    "option out of range": (["train", "--minutes", "soon"], ["--minutes soon: must be a number.", "boxtune train"]),
    "nothing to resume": (["train", "--resume", "--output-dir", "{in}/empty"], ["config.yaml", "{in}/empty"]),
    "unknown family": ([*EVALUATE, "{in}/coco", "--model", "{in}/llama"], ["'llama'", "qwen2_5_vl"]),
    "no model folder": ([*EVALUATE, "{in}/coco", "--model", "{in}/coco"], ["{in}/coco", "model"]),
    "no such model": ([*EVALUATE, "{in}/coco", "--model", "{in}/modell"], ["{in}/modell", "give a folder"]),
    "no such tiny model": ([*EVALUATE, "{in}/coco", "--model", "tiny:qwen2"], ["qwen2", "Did you mean 'qwen2_vl'"]),
    "hub model, offline": ([*EVALUATE, "{in}/coco", "--model", "some-owner/some-model"], ["some-owner/some-model"]),
    "no GPU": ([*TRAIN, "--data", "{in}/coco", "model.device=cuda"], ["'cuda'", "model.device=cpu"]),
    "no such device": ([*EVALUATE, "{in}/coco", "--device", "gpu"], ["Unknown device 'gpu'", "cuda"]),
    "no such split": ([*EVALUATE, "{in}/coco", "--split", "test"], ["no splits", "'test'", "leave --split out"]),
    "labels that do not meet": ([*EVALUATE, "{in}/cats", "--model", "{in}/model"], ["cat", "a, b", "--labels"]),
    "evaluation over a folder": (
        ["evaluate", "--model", TINY, "--data", "{in}/coco", "--output-dir", "{in}/full"],
        ["{in}/full", "another --output-dir"],
    ),
    "photo that is none": ([*PREDICT, "{in}/broken.json"], ["broken.json", "no image", "JPEG or PNG"]),
    "no photo": ([*PREDICT, "{in}/empty"], ["No picture in {in}/empty"]),
    "no labels": (["predict", "--model", TINY, "--output-dir", "{out}", "--image", "{in}/photo.png"], ["--labels a,b"]),
    "labels that name nothing": ([*EVALUATE, "{in}/coco", "--labels", " , "], ["--labels", "a,b"]),
    "photos that are none": ([*PREDICT, "{in}/photos"], ["4 of 5 pictures", "0.png", "And 1 more", "--on-error skip"]),
    "no photo that is one": (
        [*PREDICT, "{in}/no-photos", "--on-error", "skip"],
        ["None of 2 pictures can be read", "0.png", "1.png"],
    ),
    "photo of an impossible shape": ([*PREDICT, "{in}/wide.png"], ["wide.png", "300×1", "cut it"]),
    "broken JSON": (
        ["score", "--annotations", "{in}/broken.json", "--predictions", "{in}/broken.json"],
        ["broken.json is not JSON", "line 1"],
    ),
    "no annotations": (
        ["score", "--annotations", "{in}/x.json", "--predictions", "{in}/x.json"],
        ["{in}/x.json", "--annotations"],
    ),
    "merge of no adapter": (
        ["merge", "--adapter", "{in}/model", "--output-dir", "{out}"],
        ["no adapter", "{in}/model"],
    ),
    "merge of a recipe": (
        ["merge", "--adapter", "{in}/stages", "--output-dir", "{out}"],
        ["{in}/stages holds the stages", "merge {in}/stages/stage-2-language"],
    ),
    "unknown format": (["convert", "--data", "{in}/coco", "--to", "coc", "--output-dir", "{out}"], ["coc", "--help"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_line(mistake, place, cli, tmp_path, monkeypatch):
    """Exit code 2 and one line that says what, where and how to mend it."""
    import huggingface_hub.constants
    import torch

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments, expected = MISTAKES[mistake]

    def filled(text: str) -> str:
        return text.replace("{in}", str(place)).replace("{out}", str(tmp_path / "o"))

    code, out, err = cli(*map(filled, arguments))
    # what a command says before (photos held out, no splits) are words of its own, not part of the error
    said_before = (str(place), "No 'val' split", "Loading weights")
    lines = [line for line in err.splitlines() if line and not line.startswith(said_before)]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("boxtune: ")
    assert "Error: " not in lines[0]
    for text in expected:
        assert filled(text) in lines[0]
    assert "Traceback" not in out + err


def test_retries_of_the_hub_are_not_told():
    script = (
        "from boxtune.cli import main; main._quiet()\n"
        "from huggingface_hub.utils import logging\n"
        "logging.get_logger('huggingface_hub.utils._http').warning('Retrying in 1s [Retry 1/5].')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_debug_shows_where(cli, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["boxtune", "train", "--data", "/nowhere/at/all", "--debug"])
    with pytest.raises(ValueError, match="/nowhere/at/all"):
        main.run()


def test_score_json(cli, tmp_path):
    data = write_coco(tmp_path / "c", 2)
    truth = json.loads((data / "annotations.json").read_text())
    found = [
        {key: row[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1} for row in truth["annotations"]
    ]
    (tmp_path / "p.json").write_text(json.dumps(found))
    code, out, err = cli(
        "score", "--annotations", data / "annotations.json", "--predictions", tmp_path / "p.json", "--json"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["map"] == pytest.approx(1)


def test_from_a_folder_to_boxes_on_pictures(cli, tmp_path):
    """The way of a user: train, evaluate with the saved limits, predict, merge."""
    data = write_coco(tmp_path / "c", 4)
    code, out, _ = cli("train", "--data", data, "--output-dir", tmp_path / "o", *SHORT, "adapter.language=lora")
    assert code == 0
    assert f"boxtune predict --model {tmp_path / 'o'}" in out
    asked = ("evaluate", "--data", data, "--model")
    code, out, err = cli(*asked, tmp_path / "o", "--output-dir", tmp_path / "e", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert "has no splits" in err
    assert cli("predict", "--model", tmp_path / "o", "--image", data, "--output-dir", tmp_path / "p")[0] == 0
    assert sorted(path.name for path in (tmp_path / "p").glob("*.jpg")) == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert isinstance(json.loads((tmp_path / "p" / "predictions.json").read_text()), list)
    assert cli("merge", "--adapter", tmp_path / "o", "--output-dir", tmp_path / "m")[0] == 0
    assert cli(*asked, tmp_path / "m", "--output-dir", tmp_path / "e2", "--max-images", 1)[0] == 0
    assert json.loads((tmp_path / "e2" / "metrics.json").read_text())["num_images"] == 1


def test_recipes_are_listed(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = cli("recipes")
    assert code == 0
    assert [name for name in RECIPES if name not in out] == []
    code, out, _ = cli("recipes", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert set(rows) == set(RECIPES)
    assert [stage["quantize"] for stage in rows["r3-two-stage"]["stages"]] == ["none", "nf4"]


def test_a_recipe_from_data_to_a_merged_model(cli, tmp_path):
    """Two stages, the second in 4 bits; a finished run says so; the merge may go into either base."""
    pytest.importorskip("bitsandbytes")
    data = write_coco(tmp_path / "c", 4)
    home = tmp_path / "o"
    short = [text for text in SHORT if "at_end" not in text and "max_steps" not in text]
    told = ("--recipe", "r3-two-stage", "--data", data, "--output-dir", home, *short, "trainer.max_steps=1")
    code, out, err = cli("train", *told)
    assert code == 0, err
    assert "after stage 1" in err
    assert f"The model is in {home / 'stage-2-language'}" in out
    code, _, err = cli("train", "--resume", "--output-dir", home)
    assert code == 2
    assert "stage-2-language is finished: raise" in err
    code, out, err = cli("train", "--resume", "--output-dir", home, "trainer.max_steps=2")
    assert (code, "Finished before" in err) == (0, True)
    assert out.count("2 steps in") == 1
    asked = ("evaluate", "--data", data, "--max-images", 1, "--model", home / "stage-2-language", "--output-dir")
    assert "--quantize nf4 uses it as it was trained" in cli(*asked, tmp_path / "e1")[2]
    assert "--quantize" not in cli(*asked, tmp_path / "e2", "--quantize", "nf4")[2]
    merge = ("merge", "--adapter", home / "stage-2-language", "--output-dir")
    assert cli(*merge, tmp_path / "m1")[0] == 0
    code, out, _ = cli(*merge, tmp_path / "m2", "--base", "original", "--dtype", "bfloat16")
    assert code == 0
    assert json.loads((tmp_path / "m2" / "config.json").read_text())["dtype"] == "bfloat16"


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_is_answered(cli, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    (command,) = (found for found in main.app.registered_commands if found.name == "version")
    monkeypatch.setattr(command, "callback", interrupted)
    code, _, err = cli("version")
    assert code == 130
    assert err.strip() == "boxtune: interrupted"


def test_ctrl_c_saves_and_says_how_to_go_on(cli, tmp_path):
    """As a terminal does it: every process of the group gets the signal, the one that decodes images too."""
    data = write_coco(tmp_path / "c", 4)
    settings = [text for text in SHORT if "max_steps" not in text and "num_workers" not in text]
    output_dir = tmp_path / "o"
    arguments = ["train", "--data", data, "--output-dir", output_dir, *settings, "data.num_workers=1"]
    running = subprocess.Popen(
        [sys.executable, "-m", "boxtune", *map(str, arguments), "trainer.max_steps=100000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    seen = ""
    assert running.stderr is not None
    for line in running.stderr:
        seen += line
        if "step 1 " in line:
            break
    time.sleep(0.5)
    os.killpg(running.pid, signal.SIGINT)
    _, rest = running.communicate(timeout=120)
    assert running.returncode == 130, seen + rest
    assert "Traceback" not in rest
    resume = ("train", "--resume", "--output-dir", str(output_dir))
    assert rest.strip().splitlines()[-1] == f"Stopped by SIGINT. Go on with: boxtune {' '.join(resume)}"
    (checkpoint,) = output_dir.glob("checkpoint-*")
    steps = int(checkpoint.name.removeprefix("checkpoint-"))
    code, _, err = cli(*resume, f"trainer.max_steps={steps + 2}")
    assert code == 0, err
    state = json.loads((output_dir / f"checkpoint-{steps + 2}" / "trainer_state.json").read_text())
    assert [row["step"] for row in state["log_history"] if "loss" in row] == list(range(1, steps + 3))
