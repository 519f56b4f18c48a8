"""`boxtune predict --ray` with a local Ray: the boxes of the plain command, and a work that is gone on with."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from boxtune.errors import ConfigError, RunError
from boxtune.inference import ray_engine
from boxtune.inference.shards import asked_of, begin_or_go_on
from collators.conversations import LABELS


@pytest.fixture(scope="module")
def model_folder(taught, tmp_path_factory):
    """A model that finds something: it knows the pictures below by heart."""
    folder = tmp_path_factory.mktemp("taught") / "model"
    loaded = taught("qwen2_vl").loaded
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    replace(loaded.contract, labels=tuple(LABELS), max_new_tokens=120).save(folder)
    return folder


@pytest.fixture(scope="module")
def photos(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for sample in samples:
        sample.image.save(folder / f"{sample.id}.png")
    (folder / "image-9.png").write_text("no picture")
    return folder


def asked(model_folder, photos):
    return asked_of(str(model_folder), photos, labels=tuple(LABELS), shard_size=2)


@pytest.fixture(scope="module")
def local_ray():
    """As a command begins it, once for all tests: that takes many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")  # Ray's own word for what is begun without one
        with ray_engine._cluster() as ray:
            yield ray


@pytest.mark.slow
def test_as_the_plain_command_and_gone_on_with(local_ray, cli, model_folder, photos, tmp_path):
    folder = tmp_path / "o"
    work = begin_or_go_on(folder, asked(model_folder, photos), "skip")
    command = [
        "predict",
        "--model",
        model_folder,
        "--image",
        photos,
        "--output-dir",
        folder,
        "--device",
        "cpu",
        "--ray",
    ]
    command += ["--shard-size", 2, "--coco", "--on-error", "skip"]
    ray_engine.ShardWorker(str(folder), "cpu").do(1)
    before = work.shard_file(1).stat().st_mtime_ns
    code, out, err = cli(*command, "--workers", 2)
    assert code == 0, err
    assert "1 of 3 shards were done before and are kept." in err
    last = "pictures: 4; written to {0}; 1 bad left out, see {0}/skipped.jsonl\n"
    assert out.endswith(last.format(folder))
    assert work.shard_file(1).stat().st_mtime_ns == before
    plain = ("predict", "--model", model_folder, "--image", photos, "--output-dir", tmp_path / "p", "--coco")
    code, out, err = cli(*plain, "--on-error", "skip")
    assert code == 0, err
    assert out.endswith(last.format(tmp_path / "p"))
    lists = [(home / "skipped.jsonl").read_text() for home in (folder, tmp_path / "p")]
    assert lists[0] == lists[1]
    assert json.loads(lists[0])["id"] == str(photos / "image-9.png")
    ours, theirs = (json.loads((home / "coco.json").read_text()) for home in (folder, tmp_path / "p"))
    assert len(theirs["annotations"]) >= 3
    assert (ours["images"], ours["categories"]) == (theirs["images"], theirs["categories"])
    for one, other in zip(ours["annotations"], theirs["annotations"], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=2e-4)  # other neighbours, other rounding
        assert {**one, "score": 0} == {**other, "score": 0}
    code, out, err = cli(*command)  # all is done: Ray is not even begun
    assert (code, "3 of 3 shards were done before" in err) == (0, True)


@pytest.mark.slow
def test_a_worker_that_fails_ends_it_in_one_line(local_ray, model_folder, photos, tmp_path):
    work = begin_or_go_on(tmp_path / "o", asked(model_folder, photos), "skip")
    with pytest.raises(
        RunError, match=r"A worker failed \(.*\)\. 0 of 3 shards are done.* same command again"
    ) as error:
        list(ray_engine.do_on_ray(work, [99], device="cpu"))
    assert "\n" not in str(error.value)
    assert "row_group_indices is 99" in str(error.value)


@pytest.mark.slow
def test_bad_pixels_end_it_and_the_same_command_goes_on_without_them(local_ray, cli, model_folder, samples, tmp_path):
    from inference.test_pictures import torn

    for sample in samples:
        (tmp_path / "in").mkdir(exist_ok=True)
        sample.image.save(tmp_path / "in" / f"{sample.id}.png")
    torn(tmp_path / "in" / "torn.png")
    command = ["predict", "--model", model_folder, "--image", tmp_path / "in", "--output-dir", tmp_path / "o"]
    command += ["--ray", "--shard-size", 2, "--device", "cpu"]
    code, _, err = cli(*command)
    assert code == 2
    assert re.search(r"torn\.png.*--on-error skip.* of 3 shards are done and kept", err), err
    code, out, err = cli(*command, "--on-error", "skip")
    assert (code, "pictures: 4;" in out, "1 bad left out" in out) == (0, True, True), err


@pytest.mark.slow
def test_a_stranger_is_not_let_in(local_ray):
    """Ray listens on all addresses of the machine."""
    address = local_ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init(address='{address}', logging_level='ERROR'); print('in', ray.cluster_resources())"
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"} | {"HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=90
    )
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert "token" in done.stderr.lower()


@pytest.mark.parametrize("address", ["", " ", "local"])
def test_without_an_address_a_ray_is_begun_here(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_engine._address_of_cluster() is None


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::1]:{}", "127.0.0.1:9{}"])
def test_a_cluster_that_does_not_answer_is_told_at_once(form, cli, photos, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = form.format(free.getsockname()[1])
    monkeypatch.setenv("RAY_ADDRESS", address)
    command = ["predict", "--model", "embedded", "--image", photos, "--output-dir", tmp_path / "o", "--ray"]
    code, _, err = cli(*command, "--on-error", "skip")
    assert (code, f"No Ray cluster at RAY_ADDRESS={address} (" in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.parametrize(
    ("resources", "device", "workers", "expected"),
    [
        ({"CPU": 8, "GPU": 2}, "auto", None, (True, 2)),
        ({"CPU": 8, "GPU": 2}, "cuda", 1, (True, 1)),
        ({"CPU": 8, "GPU": 2}, "cpu", None, (False, 1)),
        ({"CPU": 8}, "auto", 3, (False, 3)),
        ({"CPU": 8}, "cuda", None, "has no GPUs"),
        ({"CPU": 2}, "auto", 3, "has 2 CPU cores: lower --workers"),
        ({"CPU": 16, "GPU": 4}, "auto", 5, "has 4 GPUs: lower --workers"),
    ],
)
def test_room_for_workers(resources, device, workers, expected):
    if isinstance(expected, tuple):
        assert ray_engine._share(resources, device, workers) == expected
        return
    with pytest.raises(ConfigError, match=expected):
        ray_engine._share(resources, device, workers)


def test_options_that_do_not_go_together(cli, photos, tmp_path):
    command = ["predict", "--model", "tiny:qwen2_vl", "--image", photos, "--output-dir", tmp_path / "o"]
    for more, said in (
        (["--workers", 2], "say how --ray works"),
        (["--shard-size", 5], "say how --ray works"),
        (["--ray", "--engine", "vllm"], "does not go with --ray"),
        (["--ray"], "No labels to look for"),
        (["--ray", "--labels", "a"], "1 of 5 pictures cannot be read"),
        (["--labels", "a"], "1 of 5 pictures cannot be read"),
        (["--ray", "--labels", "a", "--device", "cuda:1", "--on-error", "skip"], "Ray chooses the GPU of each worker"),
    ):
        code, _, err = cli(*command, *more)
        assert (code, said in err) == (2, True), err


def test_torchrun_and_ray(cli, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ["predict", "--model", "embedded", "--image", photos, "--output-dir", tmp_path / "o", "--ray"]
    code, _, err = cli(*command)
    assert (code, "without torchrun" in err) == (2, True)


def test_ray_that_is_not_installed(cli, photos, tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    code, _, err = cli("predict", "--model", "embedded", "--image", photos, "--output-dir", tmp_path / "o", "--ray")
    assert (code, "pip install 'boxtune[ray]'" in err) == (2, True)
