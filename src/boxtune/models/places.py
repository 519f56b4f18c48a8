"""Where the model of a name lies, and what can be read of it without its weights: configuration and processor."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError

from boxtune import hub
from boxtune.documents import RefusedError, parse_json
from boxtune.errors import ModelError
from boxtune.models.contract import FILE_NAME
from boxtune.models.families import family
from boxtune.models.strangers import check_sizes, forget_kernels, say_that_code_may_run

EMBEDDED = "embedded"
TINY = "tiny:"
RECIPE_FILE = "recipe.json"  # in a folder that holds the stages of a recipe
# what transformers, peft and safetensors raise on files that are lost, cut, of another kind or of another shape
LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    SafetensorError,
    UnpicklingError,
    StrictDataclassError,  # a size that is no number
)
_OFFLINE = (
    "the hub cannot be reached, nor is it in the cache here. Where there is a network `hf download {name}` fetches it "
    "and names a folder: copy that here, and give it as the model"
)
# the first that fits: a model behind a login is a kind of one that is not found, and so is a file not in the cache
_HUB_ERRORS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((GatedRepoError,), "the hub gives it only to those who have asked for it (hf auth login)"),
    ((RepositoryNotFoundError,), "the hub has none of that name (or keeps it private: hf auth login)"),
    ((LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError), _OFFLINE),
    ((EntryNotFoundError,), "the hub's has no config.json"),
)
_KNOWN_NAMES = "give a folder, a hub id (owner/name), `embedded` or `tiny:FAMILY`"


def embedded_folder() -> Path:
    """Where the model that comes with the package lies.

    Raises:
        ModelError: this copy of the package was built without it.
    """
    folder = Path(str(resources.files("boxtune.models").joinpath("embedded")))
    if not (folder / "config.json").is_file():
        raise ModelError(
            "This copy of boxtune holds no embedded model: install it again, or name a model with --model."
        )
    return folder


def folder_of(name: str) -> Path:
    """Where a model of this name lies if it is on this machine: that of `embedded`, or the name as a path.

    Raises:
        ModelError: see `embedded_folder`.
    """
    return embedded_folder() if name == EMBEDDED else Path(name)


def may_be_hub_id(name: str) -> bool:
    """`owner/name`; but a name below a folder that is here was meant as a folder."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).parent.is_dir()


def no_model(name: str) -> ModelError:
    """The error of a name that leads nowhere."""
    return ModelError(f"No model at '{name}': {_KNOWN_NAMES}.")


def base_of_adapter(folder: Path) -> str | None:
    """The name of the model below an adapter; None where the folder holds no adapter.

    Raises:
        ModelError: no PEFT configuration, or a base that is not there.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        base = parse_json(path.read_bytes())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a PEFT adapter's configuration ({error}).") from None
    if not isinstance(base, str):
        raise ModelError(f"{path} is not a PEFT adapter's configuration (base_model_name_or_path is {base!r}).")
    if not Path(base).is_dir() and (moved := _moved_along(folder, base)):
        return str(moved)
    known = base == EMBEDDED or base.startswith(TINY) or may_be_hub_id(base)
    if not known and not (base and Path(base).is_dir()):
        raise ModelError(
            f"The adapter in {folder} was trained on '{base}', which is not there: put that model back, or write its "
            "new place to base_model_name_or_path in adapter_config.json."
        )
    return str(base)


def _moved_along(folder: Path, base: str) -> Path | None:
    """The stage of a recipe that an adapter was trained on, where the recipe's folder has another place now."""
    for home in folder.absolute().parents[:2]:  # of a stage, of a checkpoint in it
        if (home / RECIPE_FILE).is_file() and (home / Path(base).name / FILE_NAME).is_file():
            return home / Path(base).name
    return None


def load_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """The configuration of a model of a known family; of a hub id only this file is fetched.

    Args:
        name: folder, config.json, hub id, `embedded` or `tiny:FAMILY`.
        trust_remote_code: run code that comes with the model; off unless the user says so.

    Raises:
        ModelError: nothing there, or nothing that makes a model of a known family.
    """
    if name.startswith(TINY):
        from boxtune.models.tiny import build_tiny

        return build_tiny(name.removeprefix(TINY))[0].config
    place = folder_of(name)
    path = place / "config.json" if place.is_dir() else place
    if place.is_dir() and not path.is_file():
        raise ModelError(f"{place} holds no config.json, so no model: give the folder that the weights lie in.")
    if path.is_file():
        _check_file(path)
    elif not may_be_hub_id(name):
        raise no_model(name)
    from transformers import AutoConfig

    if trust_remote_code:
        say_that_code_may_run(name)
    place_or_id = str(place if place.is_dir() else path) if path.is_file() else name
    try:
        config = AutoConfig.from_pretrained(place_or_id, trust_remote_code=trust_remote_code, **hub_options(name))
    except LOADING_ERRORS as error:
        if path.is_file():
            raise ModelError(f"{path} cannot be read as a model's configuration: {in_one_line(error)}") from error
        raise ModelError(f"No model at '{name}': no such folder, and {_said_by_hub(error, name)}.") from error
    family(config)
    forget_kernels(config)
    return config


def hub_options(name: str) -> dict[str, Any]:
    """What transformers is told of a hub id where the hub cannot be reached: to take what was fetched before."""
    if name == EMBEDDED or Path(name).exists() or hub.answers():
        return {}
    return {"local_files_only": True}


def _said_by_hub(error: Exception, name: str) -> str:
    """Why a hub id led nowhere: transformers wraps the hub's own error in advice."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for kinds, words in _HUB_ERRORS:
        if any(isinstance(one, kinds) for one in causes):
            return words.format(name=name)
    return f"what the hub gives cannot be read ({in_one_line(error)})"


def _check_file(path: Path) -> None:
    """A clear word before transformers fills in what is missing: its defaults are those of a 72B model."""
    try:
        settings = parse_json(path.read_bytes())
    except RefusedError as error:
        raise ModelError(f"{path} has what is not taken here ({error}): copy the model's config.json again.") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}): give a model's config.json.") from None
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise ModelError(f"{path} has no model_type: give a model's config.json.")
    family(settings["model_type"])
    check_sizes(settings, path)
    text = settings.get("text_config", {})
    if "hidden_size" not in settings and not (isinstance(text, dict) and "hidden_size" in text):
        raise ModelError(f"{path} says no sizes (hidden_size): copy the model's config.json again.")


def load_processor(name: str, *, trust_remote_code: bool = False) -> Any:
    """The processor of a model.

    Args:
        name: as in `load_config`, but for a bare config.json, which has none.
        trust_remote_code: run code that comes with it; off unless the user says so.

    Raises:
        ModelError: no files of a processor, or those of another family.
    """
    if name.startswith(TINY):
        from boxtune.models.tiny import build_tiny

        return build_tiny(name.removeprefix(TINY))[1]
    from transformers import AutoProcessor

    home = str(folder_of(name))
    try:
        processor = AutoProcessor.from_pretrained(home, trust_remote_code=trust_remote_code, **hub_options(name))
    except LOADING_ERRORS as error:
        raise ModelError(f"'{name}' has no processor that can be loaded: {in_one_line(error)}") from error
    if "<|image_pad|>" not in processor.tokenizer.get_vocab():  # without its files an empty tokenizer is made
        raise ModelError(f"'{name}' has no tokenizer of Qwen-VL (tokenizer.json): copy its files there.")
    return processor


def in_one_line(error: Exception) -> str:
    """The first paragraph, whose lines belong together; what follows is advice for programmers."""
    return " ".join(str(error).strip().split("\n\n")[0].split()) or type(error).__name__
