"""Whether the hub of models and data sets answers, asked once and shortly.

The libraries that fetch from it try for minutes where it does not, each file anew (huggingface_hub, `http_backoff`).
"""

from __future__ import annotations

import functools

_SECONDS = 5.0


@functools.cache
def answers() -> bool:
    """Whether any answer comes from the hub within some seconds; False where it is not to be asked (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception:  # of the HTTP library, which is not the same one in all versions of huggingface_hub
        return False
    return True
