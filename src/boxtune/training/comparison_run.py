"""One run of a comparison of recipes, in a process of its own: so its peak of memory is its own.

`python -m boxtune.training.comparison_run FOLDER` trains as `FOLDER/config.yaml` says, and writes `FOLDER/result.json`.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from boxtune.config.load import load_config
from boxtune.errors import BoxtuneError, ConfigError
from boxtune.training.callbacks.checkpoints import RUN_FILE, last_checkpoint
from boxtune.training.recipes import run_recipe

CONFIG_FILE: Final = "config.yaml"
RESULT_FILE: Final = "result.json"
ERROR_FILE: Final = "error.txt"


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
        looks: `(step, AP)` of the watched images, where a setting asked for them.
    """

    model: str
    num_trained: tuple[int, ...]
    num_steps: int
    minutes: float
    peak_bytes: int
    memory: str
    looks: tuple[tuple[int, float], ...] = ()


def read_result(folder: Path) -> RunResult | None:
    """The result of a run that is finished, None of any other."""
    try:
        content = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        looked = tuple((int(step), float(ap)) for step, ap in content.get("looks", ()))
        return RunResult(**{**content, "num_trained": tuple(content["num_trained"]), "looks": looked})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
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
        looks=looks([stage.output_dir for stage in stages]),
    )
    (folder / RESULT_FILE).write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")


def _peak_resident() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def num_trained(folder: Path) -> int:
    """How many weights the training behind a model's folder changed, as it was recorded before its first step."""
    record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    return sum(record["trained"].values())


def looks(folders: Sequence[Path]) -> tuple[tuple[int, float], ...]:
    """`(step, AP)` of the watched images in the course of a run, the steps of its stages counted on; mostly none."""
    found: list[tuple[int, float]] = []
    before = 0
    for folder in folders:
        checkpoint = last_checkpoint(folder)
        assert checkpoint is not None  # a finished stage has one
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        found += [(before + row["step"], row["eval_map"]) for row in state["log_history"] if "eval_map" in row]
        before += state["global_step"]
    return tuple(found)


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
