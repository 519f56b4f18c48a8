"""`--engine vllm` on the command line, with a stand-in for vLLM."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from boxtune.models.contract import default_contract
from boxtune.models.places import load_processor
from boxtune.models.tiny import save_tiny
from inference import vllm_stand_in
from training.runs import write_coco


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny("qwen2_5_vl", tmp_path_factory.mktemp("model"))
    contract = default_contract("qwen2_5_vl", load_processor(str(folder)))
    dataclasses.replace(contract, max_new_tokens=8).save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("data") / "coco", 4)


@pytest.fixture
def vllm(monkeypatch):
    made = vllm_stand_in.module()
    monkeypatch.setitem(sys.modules, "vllm", made)
    return made


def test_predict_and_evaluate(cli, vllm, folder, data, tmp_path):
    place = ("--model", folder, "--labels", "box", "--batch-size", 2, "--engine", "vllm")
    code, out, _ = cli("predict", *place, "--image", data / "1.png", "--output-dir", tmp_path / "p")
    assert code == 0
    assert "Looked for box" in out
    assert json.loads((tmp_path / "p" / "predictions.json").read_text()) == []  # random weights find nothing
    code, out, err = cli("evaluate", *place, "--data", data, "--output-dir", tmp_path / "e", "--json")
    assert code == 0
    assert "vLLM names no boxes after the end of an answer" in err
    metrics = json.loads(out)
    assert metrics["num_images"] == 4
    assert metrics["score_source"] == "token probabilities"
    answers = [json.loads(line)["text"] for line in (tmp_path / "e" / "answers.jsonl").read_text().splitlines()]
    assert all(answers)
    assert [llm.calls for llm in vllm.LLM.made] == [[1], [4]]
    _, _, err = cli("evaluate", *place, "--data", data, "--output-dir", tmp_path / "n", "--candidates", 0)
    assert "after the end" not in err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--device", "cpu"), "--device does not go with --engine vllm: vLLM chooses for itself"),
        (("--quantize", "nf4"), "--quantize does not go with --engine vllm"),
        (("--decoder", "head"), "--decoder does not go with --engine vllm: vLLM runs no detection head"),
        (("--decoder", "both"), "--decoder does not go with --engine vllm"),
        (("--free-labels",), "--free-labels does not go with --engine vllm"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_options_that_vllm_cannot_follow_are_refused(cli, vllm, folder, data, tmp_path, command, options, reason):
    place = ("--image", data) if command == "predict" else ("--data", data)
    asked = (command, "--model", folder, *place, "--labels", "box", "--output-dir", tmp_path / "o")
    code, _, err = cli(*asked, "--engine", "vllm", *options)
    assert code == 2
    assert reason in err
    assert vllm.LLM.made == []


def test_several_processes_are_refused(cli, vllm, folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr("boxtune.processes.count", lambda: 2)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("boxtune.processes.of_all", lambda work: [work()])
    asked = ("predict", "--model", folder, "--image", data, "--labels", "box", "--output-dir", tmp_path / "o")
    code, _, err = cli(*asked, "--engine", "vllm")
    assert code == 2
    assert "torchrun does not go with --engine vllm: vLLM starts its own processes" in err


def test_without_vllm(cli, folder, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    asked = ("predict", "--model", folder, "--image", data, "--labels", "box", "--output-dir", tmp_path / "o")
    code, _, err = cli(*asked, "--engine", "vllm")
    assert code == 2
    assert "pip install vllm" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()
