"""`boxtune push`: its options, and what is said before anything leaves the machine."""

from __future__ import annotations

import pytest

from boxtune.models.contract import default_contract
from boxtune.models.load import load_model
from boxtune.models.tiny import save_tiny


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = save_tiny("qwen2_vl", tmp_path_factory.mktemp("push") / "run")
    default_contract("qwen2_vl", load_model(str(folder)).processor).save(folder)
    return folder


def test_dry_run(cli, run_folder):
    code, out, err = cli("push", run_folder, "--to", "me/cells", "--dry-run", "--license", "mit")
    assert (code, err) == (0, "")
    assert " bytes  model.safetensors" in out
    assert "license: mit" in out
    assert "# cells" in out


def test_a_card_of_ones_own(cli, run_folder, tmp_path):
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\n[red]mine[/red]")
    code, out, _ = cli("push", run_folder, "--to", "me/cells", "--dry-run", "--card", tmp_path / "card.md")
    assert code == 0
    assert "[red]mine[/red]" in out
    assert "# cells" not in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "cells"], "names no owner"),
        (["--to", "me/cells", "--card", "nowhere.md"], "There is no card at nowhere.md"),
        (["--to", "me/cells", "--license", "mit\nbase_model: x"], "--license 'mit\\nbase_model: x' is no licence"),
        (["--to", "me/cells", "--license-name", "mine"], "go with --license other"),
        (["--to", "me/cells", "--card", "x", "--license", "mit"], "--license is for the card that is made here"),
    ],
)
def test_refused(cli, run_folder, options, said):
    code, _, err = cli("push", run_folder, *options)
    assert code == 2
    assert said in err
