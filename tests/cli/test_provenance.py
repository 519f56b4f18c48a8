"""What `evaluate` and `compare` say of images that were trained on and labels that were not taught."""

from __future__ import annotations

import json

from boxtune.data.dataset import load_dataset
from boxtune.data.digests import image_digests, pack_digests
from training.runs import short_run, write_coco


def test_console_and_pages_say_so(tmp_path, monkeypatch, cli):
    monkeypatch.setenv("COLUMNS", "300")
    data, run = write_coco(tmp_path / "coco", 6), tmp_path / "run"
    overrides = ("trainer.max_steps=1", "evaluation.at_end=true", "data.val_split=train", "data.max_train_images=4")
    short_run(data, run, *overrides)
    every, some = "Every image was seen in training", "4 of the 6 images were seen in training"
    assert every in (run / "report.html").read_text()
    for number, (options, notes) in enumerate(
        [
            (("--max-images", 4), [every]),
            ((), [some]),
            (("--labels", "box,[b]dog"), [some, "The model was not taught [b]dog; it knows box."]),
        ]
    ):
        output = tmp_path / f"found-{number}"
        code, _, err = cli("evaluate", "--model", run, "--data", data, "--output-dir", output, *options)
        assert code == 0, err
        for note in notes:
            assert note in err
            assert note in (output / "report.html").read_text()
    record = {"data": {"images": pack_digests(image_digests(load_dataset(data).subset([])))}}
    (run / "run.json").write_text(json.dumps(record))
    code, _, err = cli("evaluate", "--model", run, "--data", data, "--output-dir", tmp_path / "unseen")
    assert code == 0
    assert "seen in training" not in err + (tmp_path / "unseen" / "report.html").read_text()
    both = ("--models", f"{run},tiny:qwen2_vl", "--labels", "dog,box", "--output-dir", tmp_path / "both")
    code, _, err = cli("compare", "--data", data, *both)
    assert code == 0, err
    assert f"{run}: The model was not taught dog" in (tmp_path / "both" / "comparison.html").read_text()
