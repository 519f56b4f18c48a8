"""Names that rich would take for markup, through every command that shows a name of the user's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from training.runs import SHORT, write_coco

LABEL, OUTPUT, DATA = "[red]cup[/x]", "q[/b]z", "pr[red]x"


@dataclass(frozen=True)
class Said:
    """What a command printed."""

    out: str
    err: str


@pytest.fixture
def boxtune(cli):
    def run(*arguments: str) -> Said:
        code, out, err = cli(*arguments)
        assert code == 0, err
        return Said(out, err)

    return run


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    return write_coco(tmp_path / DATA, labels=(LABEL, "[b]"))


def test_every_command_shows_names_as_they_are(data, boxtune):
    run, found = f"{OUTPUT}/run", f"{OUTPUT}/found"
    held_out = ("evaluation.at_end=true", "data.val_fraction=0.4", "trainer.max_steps=2", "logging.first_samples=0")
    trained = boxtune("train", "--data", DATA, "--output-dir", run, *SHORT, *held_out)
    assert f"labels: {LABEL}" in trained.err
    assert f"Look at {run}/report.html" in trained.out
    assert f"The model is in {run};" in trained.out
    judged = boxtune("evaluate", "--model", run, "--data", DATA, "--output-dir", found, "--labels", f"{LABEL},[i]")
    assert "The model is not asked for [b]:" in judged.err
    assert LABEL in judged.out
    assert f"Written to {found}; look at {found}/report.html" in judged.out
    predicted = boxtune("predict", "--model", run, "--image", f"{DATA}/1.png", "--output-dir", f"{OUTPUT}/p")
    assert f"Looked for {LABEL}, [b]." in predicted.out
    assert f"written to {OUTPUT}/p" in predicted.out
    scored = boxtune(
        "score", "--annotations", f"{found}/ground_truth.json", "--predictions", f"{found}/predictions.json"
    )
    assert f"{found}/predictions.json" in scored.out
    assert LABEL in scored.out
    (data / "[i].json").write_text("[]")
    compared = boxtune("compare", "--annotations", f"{found}/ground_truth.json", "--output-dir", f"{OUTPUT}/c",
                       "--predictions", f"{found}/predictions.json,{DATA}/[i].json")  # fmt: skip
    assert f"2: {DATA}/[i].json" in compared.out
    assert f"Written to {OUTPUT}/c;" in compared.out
    converted = boxtune("convert", "--data", DATA, "--to", "jsonl", "--output-dir", f"{OUTPUT}/jsonl")
    assert f"written to {OUTPUT}/jsonl as jsonl" in converted.out
    inspected = boxtune("inspect", "data", "--data", DATA)
    assert DATA in inspected.out
    assert LABEL in inspected.out
    assert f"{OUTPUT}/x" in boxtune("inspect", "config", f"output_dir={OUTPUT}/x").out
    for file in ("metrics.json", "run.json"):
        assert LABEL in json.dumps(json.loads((Path(run) / file).read_text()))
