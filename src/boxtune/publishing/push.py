"""A model's folder to the hub, in one commit: it is there with its card, or not at all."""

from __future__ import annotations

from pathlib import Path

from boxtune import hub
from boxtune.errors import ConfigError, SaveError


def push_model(files: list[Path], card: str, repo_id: str, *, private: bool = False) -> str:
    """Upload files and a card, `README.md`; the repository is made where there is none. Returns its address.

    The token is the one of the environment (HF_TOKEN) or of `hf auth login`.

    Args:
        files: of one folder.
        card: in Markdown.
        repo_id: `owner/name`.
        private: of a new repository; one that is there stays what it is.

    Raises:
        SaveError: no token, no network, or the hub refuses.
    """
    import httpx
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None:
        raise SaveError("Nobody is logged in to the hub: set HF_TOKEN to a token that may write, or run hf auth login.")
    if not hub.answers():
        raise SaveError(f"The hub at {constants.ENDPOINT} does not answer (or HF_HUB_OFFLINE is set): try again later.")
    added = [CommitOperationAdd(path.name, path) for path in files]
    added.append(CommitOperationAdd("README.md", card.encode()))
    api = HfApi(endpoint=constants.ENDPOINT)
    try:
        address = str(api.create_repo(repo_id, private=private or None, exist_ok=True))
        api.create_commit(repo_id, added, commit_message="Model trained by boxtune")
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise SaveError(f"The hub does not let this login write to '{repo_id}': check owner and token.") from None
        raise SaveError(f"The hub refused '{repo_id}' ({_one_line(error)}): nothing was published.") from error
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:  # RuntimeError: of a file that was uploaded
        raise SaveError(
            f"'{repo_id}' was not uploaded ({_one_line(error)}): try again, what is there is kept."
        ) from error
    return address


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no `owner/name`.

    Raises:
        ConfigError: says what is wrong.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"--to '{repo_id}': {_one_line(error)}") from None
    if repo_id.count("/") != 1:
        raise ConfigError(f"--to '{repo_id}' names no owner: write it as owner/name.")


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
