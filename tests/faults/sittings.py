"""Commands of boxtune in processes that may be killed, begun quickly: all is imported before the process forks.

A program of its own: it reads a command line a line (JSON: arguments, name of a log), answers with the process id, and,
once that process has ended, with its exit status as `waitpid` tells it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Sittings:
    """The program above, and what is asked of it."""

    def __init__(self) -> None:
        self.program = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, log: Path, *arguments: str, meanwhile: Callable[[int], Any] = lambda _: None) -> tuple[int, str]:
        """Exit code of a command, negative where a signal ended it, and what it said; `meanwhile` is told its id."""
        self._tell([list(arguments), str(log)])
        pid = self._hear()
        try:
            meanwhile(pid)
        finally:  # it is read even then, or the next one would take it for its own
            status = self._hear()
        return os.waitstatus_to_exitcode(status), log.read_text()

    def end(self) -> None:
        self._tell(None)  # closing the pipe says nothing while a process that was forked meanwhile holds it too
        self.program.stdin.close()
        self.program.wait(60)

    def _tell(self, content: Any) -> None:
        self.program.stdin.write(json.dumps(content) + "\n")
        self.program.stdin.flush()

    def _hear(self) -> Any:
        return json.loads(self.program.stdout.readline())


def is_alive(pid: int) -> bool:
    """Whether a process, which is somebody else's child, still runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_for(what: Callable[[], Any], pid: int, *, seconds: float = 60, pause: float = 0.0005) -> bool:
    """Until something is so; False where the process has ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        if not is_alive(pid):
            return False
        time.sleep(pause)
    raise TimeoutError(f"not in {seconds} s")


def serve() -> None:
    import boxtune.cli.main
    import boxtune.evaluation.summary
    import boxtune.training.recipes

    for line in sys.stdin:
        if (asked := json.loads(line)) is None:
            return
        arguments, log = asked
        pid = os.fork()
        if pid == 0:
            os.setsid()  # a group of its own, for signals to all of its processes
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell has put behind
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.argv = ["boxtune", *arguments]
            try:
                boxtune.cli.main.run()
            except SystemExit as end:
                sys.stdout.flush()
                os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
            finally:
                os._exit(1)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(status, flush=True)


if __name__ == "__main__":
    serve()
