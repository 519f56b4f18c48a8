"""The command line: which commands there are, and how errors end. Each command is a file of its own.

Nothing heavy is imported before a command needs it, so `boxtune --help` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any

import typer

from boxtune import __version__
from boxtune.cli import (
    calibrate,
    compare,
    convert,
    evaluate,
    inspect,
    merge,
    predict,
    push,
    quickstart,
    recipes,
    score,
    serve,
    train,
)
from boxtune.cli.app import command as app_command
from boxtune.errors import BoxtuneError

app = typer.Typer(
    help="Teach vision-language models (Qwen2-VL, Qwen2.5-VL, Qwen3-VL) to detect objects, and measure them honestly.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
app.command("quickstart")(quickstart.command)
app.command("train")(train.command)
app.command("evaluate")(evaluate.command)
app.command("predict")(predict.command)
app.command("score")(score.command)
app.command("compare")(compare.command)
app.command("calibrate")(calibrate.command)
app.command("app")(app_command)
app.command("serve")(serve.command)
app.command("convert")(convert.command)
app.command("merge")(merge.command)
app.command("push")(push.command)
app.command("recipes")(recipes.command)
app.add_typer(inspect.app, name="inspect")


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show a traceback instead of one line when something fails."),
) -> None:
    """Options of every command; --debug may stand anywhere (see `run`)."""


@app.command("version")
def _version() -> None:
    """Print the version."""
    typer.echo(__version__)


def run() -> None:
    """Entry point: 0 when done; 2 and one line for what a user can mend; 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    if not debug:
        _quiet()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(args=arguments, prog_name="boxtune", standalone_mode=False)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except Exception as error:
        if debug:
            raise
        _end(*_explained(error))
    else:
        if code == 130:  # what typer makes of Ctrl-C, without a word
            _end("interrupted", code)
        sys.exit(code if isinstance(code, int) else 0)


def _terminated(number: int, frame: FrameType | None) -> None:
    """End as after Ctrl-C: what is written aside is removed on the way. A training listens for itself."""
    _end("ended by SIGTERM", 128 + number)


def _explained(error: Exception) -> tuple[str, int]:
    """One line for an error, and the exit code."""
    # typer 0.26 and later carry their own copy of click, so the exceptions are known by what they can do
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "boxtune"
        said = _wrong_option(error) or _one_line(error.format_message())
        return (f"{said} See `{command} --help`." if said else ""), 2  # nothing to say: the help was shown
    if type(error).__name__ == "Abort":
        return "interrupted", 130
    if isinstance(error, BoxtuneError):
        return _one_line(str(error)), 2
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"The disk is full ({error.filename or 'while writing'}): make room and try again.", 2
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Check the path and its rights.", 2
    if type(error).__name__ == "OutOfMemoryError":
        remedy = "lower model.max_pixels, and trainer.per_device_train_batch_size in training, --batch-size elsewhere"
        return f"Out of GPU memory: {remedy}. {_one_line(str(error))}", 2
    return f"{type(error).__name__}: {_one_line(str(error))} (run again with --debug for the traceback)", 1


def _wrong_option(error: Any) -> str:
    """In our words where typer has a value checked by pydantic; empty where it does not."""
    from pydantic import ValidationError

    from boxtune.config.wording import in_words

    found, param = error.__cause__, getattr(error, "param", None)
    if not isinstance(found, ValidationError) or param is None:
        return ""
    problems = found.errors()
    option = param.opts[0] if param.param_type_name == "option" else param.human_readable_name
    return _one_line(f"{option} {problems[0]['input']}: {in_words(problems)}.")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _end(message: str, code: int) -> None:
    if message:
        print(f"boxtune: {message}", file=sys.stderr)
    sys.exit(code)


def _quiet() -> None:
    """Leave the console to our own words; --debug shows everything."""
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it tells of each of five retries
    for name in ("torch", "bitsandbytes", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
