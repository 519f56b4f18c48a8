"""One run of a comparison of recipes, in a process of its own: so its peak of memory is its own.

`python -m boxtune.training.comparison_run FOLDER` trains as `FOLDER/config.yaml` says, and writes `FOLDER/result.json`.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from safetensors import safe_open

from boxtune.config.load import load_config
from boxtune.errors import BoxtuneError, ConfigError
from boxtune.training.recipes import run_recipe

CONFIG_FILE: Final = "config.yaml"
RESULT_FILE: Final = "result.json"
ERROR_FILE: Final = "error.txt"

# Names in files of weights are those of the hub, which differ from those of the families table by what stands before.
_AREA_ON_DISK: Final = (
    ("merger", re.compile(r"(^|\.)visual\.(merger|deepstack_merger_list)\.")),
    ("vision", re.compile(r"(^|\.)visual\.")),
    ("language", re.compile("")),
)


@dataclass(frozen=True)
class RunResult:
    """What one training came to.

    Attributes:
        model: folder of the trained model, below the folder of the run.
        num_trained: weights that were trained, one number a stage.
        num_steps: of all stages.
        minutes: of training alone, all stages together.
        peak_bytes: most memory that the process held, training and evaluation together.
        memory: what was measured: `cuda` (torch's own count of the GPU's) or `rss` (resident memory).
    """

    model: str
    num_trained: tuple[int, ...]
    num_steps: int
    minutes: float
    peak_bytes: int
    memory: str


def read_result(folder: Path) -> RunResult | None:
    """The result of a run that is finished, None of any other."""
    try:
        content = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        return RunResult(**{**content, "num_trained": tuple(content["num_trained"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def run(folder: Path, console: Console | None = None) -> None:
    """Train and evaluate as the folder's configuration says; writes `result.json` last, so that it means finished.

    Raises:
        BoxtuneError: as `boxtune.train`; the run took other steps than it should have.
    """
    config = load_config(folder / CONFIG_FILE)
    assert config.recipe is not None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    stages = run_recipe(config.recipe, config, console=console).stages
    if stages[-1].stopped_by is not None:
        raise KeyboardInterrupt
    for stage in stages:
        if stage.num_steps != config.trainer.max_steps:
            raise ConfigError(
                f"{stage.output_dir} took {stage.num_steps} steps instead of {config.trainer.max_steps}: the train "
                "split has fewer images than trainer.per_device_train_batch_size, lower it."
            )
    on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
    result = RunResult(
        model=str(stages[-1].output_dir.relative_to(folder)),
        num_trained=tuple(num_trained(stage.output_dir) for stage in stages),
        num_steps=sum(stage.num_steps for stage in stages),
        minutes=sum(stage.seconds for stage in stages) / 60,
        peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else _peak_resident(),
        memory="cuda" if on_gpu else "rss",
    )
    (folder / RESULT_FILE).write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")


def _peak_resident() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def num_trained(folder: Path) -> int:
    """How many weights the training behind a model's folder changed: an adapter's own, or those of its open areas."""
    adapter = folder / "adapter_model.safetensors"
    if adapter.is_file():
        return sum(_sizes(adapter).values())
    areas = load_config(folder / CONFIG_FILE).adapter
    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        sizes |= _sizes(path)
    return sum(size for name, size in sizes.items() if getattr(areas, _area(name)) == "full")


def _area(name: str) -> str:
    return next(area for area, pattern in _AREA_ON_DISK if pattern.search(name))


def _sizes(path: Path) -> dict[str, int]:
    """Name of each tensor in a file → its number of elements; no tensor is read."""
    with safe_open(path, framework="pt") as file:
        shapes: dict[str, Any] = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return {name: int(torch.Size(shape).numel()) for name, shape in shapes.items()}


def main() -> int:
    """Entry of the process; what a user can mend goes to `error.txt`, for the process that waits."""
    folder = Path(sys.argv[1])
    try:
        run(folder)
    except BoxtuneError as error:
        (folder / ERROR_FILE).write_text(str(error), encoding="utf-8")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
