"""Folders that hold a part of a model and name the rest of it, its base: adapters, and heads that were trained alone.

An adapter names its base in PEFT's file, a head in `boxtune.json`, as `{"name": …, "given": …, "weights": …}`: a folder
is named in full, so that it is found from anywhere; a name from some working folder is kept too, so that a copy of the
whole project finds its own base; and a fingerprint, since a head is worth nothing beside other weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from boxtune.errors import ModelError
from boxtune.models.contract import FILE_NAME, Contract, read_contract
from boxtune.models.detection_head.saving import has_head
from boxtune.models.fingerprint import sampled_fingerprint
from boxtune.models.places import EMBEDDED, TINY, base_of_adapter, folder_of, may_be_hub_id

_LONGEST: Final = 4096  # of a path on Linux


def base_of(folder: Path) -> str | None:
    """The name of the model below an adapter, or beside a head; None where the folder does not hold such a part.

    Raises:
        ModelError: files that cannot be read, or a base that is not there.
    """
    return base_of_adapter(folder) or base_of_head(folder)


def base_of_head(folder: Path) -> str | None:
    """The name of the model beside a head that was trained alone; None where the folder holds no such head.

    Raises:
        ModelError: no contract that can be read, or a base that is not there.
    """
    contract = read_contract(folder) if has_head(folder) else None
    if contract is None or contract.base_of_head is None:
        return None
    known = _known(contract, folder)
    name, given = known["name"], known.get("given")
    if name == EMBEDDED or name.startswith(TINY) or _is_folder(name) or may_be_hub_id(name):
        return name
    if given is not None and _is_folder(given):
        return given
    raise ModelError(
        f"The detection head in {folder} was trained beside the model '{name}', which is not there: put that model "
        f"back, or write its new place to base_of_head.name in {FILE_NAME}."
    )


def named_base(base: str) -> dict[str, str] | None:
    """What a contract says of the base of a head, by which it is found and known again; None where it would not be.

    Args:
        base: name of a model that has been loaded.
    """
    if base.startswith(TINY):  # made up anew each time, by other releases perhaps otherwise
        return None
    known = {"name": base}
    if base != EMBEDDED and Path(base).is_dir() and not Path(base).is_absolute():
        known = {"name": str(Path(base).absolute()), "given": base}
    if (weights := _weights_of(base)) is not None:
        known["weights"] = weights
    return known


def check_base(folder: Path, base: str) -> None:
    """Refuse a base whose weights are not those that the head in a folder was trained beside.

    Args:
        folder: a run's or a checkpoint's; nothing is asked of one that holds no head trained alone.
        base: its name; the model has been loaded.

    Raises:
        ModelError: names both.
    """
    contract = read_contract(folder)
    if contract is None or contract.base_of_head is None:
        return
    trained = _known(contract, folder).get("weights")
    if trained is not None and _weights_of(base) != trained:
        raise ModelError(
            f"The weights of '{base}' are not those that the detection head in {folder} was trained beside: put them "
            "back, or train the head again."
        )


def _weights_of(base: str) -> str | None:
    if (folder := folder_of(base)).is_dir():
        return sampled_fingerprint(folder)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(base, "config.json")
    return sampled_fingerprint(Path(found).parent) if isinstance(found, str) else None


def _is_folder(name: str) -> bool:
    try:
        return name != "" and Path(name).is_dir()
    except OSError:  # longer than a name may be
        return False


def _known(contract: Contract, folder: Path) -> dict[str, str]:
    known = contract.base_of_head
    if (
        isinstance(known, dict)
        and "name" in known
        and all(isinstance(value, str) and len(value) <= _LONGEST for value in known.values())
    ):
        return known
    raise ModelError(f"{folder / FILE_NAME} names no base of the detection head (base_of_head.name): copy it again.")
