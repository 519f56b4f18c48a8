"""`boxtune push` to a stand-in of the hub: what arrives, what never does, and every way to be refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from boxtune import hub as hub_of_ours
from boxtune.errors import ConfigError, SaveError
from boxtune.publishing.card import model_card
from boxtune.publishing.files import files_of_model
from boxtune.publishing.push import check_repo_id, push_model
from publishing.conftest import PRIVATE
from publishing.stand_in import Hub, running


def test_everything_of_the_model_arrives(hub, full_run):
    files, card = files_of_model(full_run), model_card(full_run, "me/cells")
    address = push_model(files, card, "me/cells", private=True)
    assert address == f"{hub.address}/me/cells"
    assert hub.repositories == {"me/cells": "private"}
    arrived = hub.files["me/cells"]
    assert arrived == {**{path.name: path.read_bytes() for path in files}, "README.md": card.encode()}
    assert len(hub.uploads) == 1  # the weights, by LFS
    assert sum("/commit/" in asked for asked in hub.asked) == 1
    assert not any(b"secret-patient" in content for content in arrived.values())


def test_a_second_time_changes_what_is_there(hub, full_run):
    files = files_of_model(full_run)
    push_model(files, "first", "me/cells")
    assert hub.repositories == {"me/cells": "public"}
    push_model(files, "second", "me/cells")
    assert hub.files["me/cells"]["README.md"] == b"second"


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ({"create": 403}, "does not let this login write to 'me/cells'"),
        ({"preupload": 404}, "refused 'me/cells'"),
        ({"batch": 400}, "refused 'me/cells'"),
        ({"/upload/": 403}, "was not uploaded"),
        ({"commit": 401}, "does not let this login write"),
    ],
)
def test_refused_on_the_way(hub, full_run, failing, said):
    hub.fails.update(failing)
    with pytest.raises(SaveError, match=said) as error:
        push_model(files_of_model(full_run), "card", "me/cells")
    assert "\n" not in str(error.value)
    assert hub.token not in str(error.value)
    assert "me/cells" not in hub.files


def test_somebody_elses_name_or_token(hub, full_run, monkeypatch):
    with pytest.raises(SaveError, match="does not let this login write to 'you/cells'"):
        push_model(files_of_model(full_run), "card", "you/cells")
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(SaveError, match="does not let this login write") as error:
        push_model(files_of_model(full_run), "card", "me/cells")
    assert "hf_of_nobody" not in str(error.value)


def test_without_a_login_or_a_hub(hub, full_run, monkeypatch):
    from huggingface_hub import constants

    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        with pytest.raises(SaveError, match="set HF_TOKEN to a token that may write, or run hf auth login"):
            push_model(files_of_model(full_run), "card", "me/cells")
    assert hub.asked == []
    hub_of_ours.answers.cache_clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SaveError, match=r"at http://127.0.0.1:9 does not answer"):
        push_model(files_of_model(full_run), "card", "me/cells")


@pytest.mark.parametrize("name", ["cells", "me/", "a/b/c", "me/a b", "--me/x", "../x", ""])
def test_names_that_are_none(name):
    with pytest.raises(ConfigError, match="--to"):
        check_repo_id(name)


def test_the_command(full_run, tmp_path):
    """In a process of its own, with nothing but the environment to tell it of the hub."""
    with running(Hub()) as stand_in:
        env = {**os.environ, "HF_ENDPOINT": stand_in.address, "HF_TOKEN": stand_in.token, "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "boxtune", "push", str(full_run), "--to", "me/cells"]
        dry = subprocess.run([*command, "--dry-run"], env=env, capture_output=True, text=True, check=False)
        assert (dry.returncode, stand_in.asked) == (0, []), dry.stderr
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"files are at {stand_in.address}/me/cells" in done.stdout
    assert stand_in.token not in done.stdout + done.stderr + dry.stdout
    assert set(stand_in.files["me/cells"]) == {
        line.split()[-1] for line in dry.stdout.splitlines() if " bytes  " in line
    }
    assert stand_in.files["me/cells"]["README.md"].decode() in dry.stdout
    assert not set(PRIVATE) & set(stand_in.files["me/cells"])
