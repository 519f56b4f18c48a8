"""Fuzzing by atheris: `python -m fuzz.run MINUTES [TARGET …]`, from the folder `tests`. `make fuzz` does it.

Each target gets its share of the time in a process of its own. A finding does not end it: every place that an exception
comes from is told once, with the input in `tests/fuzz/found/`, and the exit code is 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import atheris

FOUND = Path(__file__).parent / "found"
_SECONDS_AN_INPUT = 20  # one that takes longer is a finding of libFuzzer's, which ends the target
_LONGEST_BYTES = 20_000


def main(arguments: list[str]) -> int:
    """Share the minutes out; returns the exit code."""
    if arguments[:1] == ["--one"]:
        return _fuzz(arguments[1], int(arguments[2]))
    from fuzz.targets import TARGETS

    minutes, names = float(arguments[0]), arguments[1:] or list(TARGETS)
    seconds = max(1, round(60 * minutes / len(names)))
    failed = [name for name in names if subprocess.run([*_THIS, "--one", name, str(seconds)], check=False).returncode]
    print(f"fuzzed {len(names)} targets for {seconds} s each; findings in: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


_THIS = [sys.executable, "-m", "fuzz.run"]


def _fuzz(name: str, seconds: int) -> int:
    with atheris.instrument_imports(include=["boxtune", "PIL", "yaml", "json"]):
        from fuzz.targets import TARGETS, clean_up
    target = TARGETS[name]
    places: set[str] = set()
    num_inputs, end = 0, time.monotonic() + seconds

    def one_input(data: bytes) -> None:
        nonlocal num_inputs
        num_inputs += 1
        try:
            target.check(data)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = f"{type(error).__name__} at " + " < ".join(f"{f.name}:{f.lineno}" for f in frames[:-4:-1])
            if place not in places:
                places.add(place)
                path = FOUND / f"{name}-{len(places)}"
                path.write_bytes(data)
                print(f"FOUND {name}: {place}: {str(error)[:200]!r} by {path}", flush=True)
        if time.monotonic() > end:
            clean_up()
            print(f"{name}: {num_inputs} inputs, {len(places)} findings", flush=True)
            # libFuzzer would end the process itself, without telling of what was found
            sys.stdout.flush()
            os._exit(1 if places else 0)

    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup(
            [sys.argv[0], f"-timeout={_SECONDS_AN_INPUT}", f"-max_len={_LONGEST_BYTES}", "-rss_limit_mb=4096",
             f"-artifact_prefix={FOUND}/{name}-", "-verbosity=0", corpus],
            one_input,
        )  # fmt: skip
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
