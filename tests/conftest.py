"""What tests of several rooms share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from boxtune.cli import main
from boxtune.data.sample import Sample
from boxtune.detections import Detections

settings.register_profile("any machine", deadline=None)  # a busy one is no fault of the code
settings.load_profile("any machine")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """So small a model is many times slower on several threads, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """No test writes to the user's folder of caches, nor reads what another sitting left there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOXTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data sets beside the repository")
    return folder


@pytest.fixture(scope="session")
def shared_tokenizer() -> Any:
    """Qwen's real tokenizer; skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "tokenizers" / "qwen3"
    if not folder.is_dir():
        pytest.skip("Qwen's tokenizer is not beside the repository")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def trl_template() -> Callable[[str], str]:
    """name → text of a chat template of trl."""
    pytest.importorskip("trl")
    return lambda name: resources.files("trl").joinpath("chat_templates", name).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], tuple[Any, Any]]:
    """model type → its tiny model (in evaluation mode) and processor, built once: copy the model before changing it."""
    import torch

    torch.set_num_threads(1)  # models so small gain nothing from more, and wait for each other on a busy machine

    @functools.cache
    def build(model_type: str) -> tuple[Any, Any]:
        from boxtune.models.tiny import build_tiny

        model, processor = build_tiny(model_type)
        return model.eval(), processor

    return build


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Four coloured images of different sizes with none, one, two and one boxes."""
    noise = np.random.default_rng(0)
    sizes_and_boxes = [
        ((112, 160), [[20, 30, 90, 70]]),
        ((150, 90), []),
        ((60, 200), [[100, 5, 180, 55], [10, 10, 60, 50]]),
        ((170, 170), [[0, 0, 170, 170]]),
    ]
    made = []
    for index, ((height, width), boxes) in enumerate(sizes_and_boxes):
        image = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        labels = ["table", "red cell"][: len(boxes)]
        made.append(Sample(f"image-{index}", image, Detections(boxes, labels), "conftest"))
    return made


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run a command line in this process: `(exit code, stdout, stderr)`."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["boxtune", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main.run()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run


# they start processes, stop them in the middle and wait for their clocks
DISTURBED = ("app", "distributed", "faults", "serve")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a busy machine may disturb is tried again, and said to have been: what fails three times is broken."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).parts[0] in DISTURBED:
            item.add_marker(pytest.mark.flaky(reruns=2))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` skip where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
