"""A page that would load something from another host is an error: the site works without a network."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

_LOADED = re.compile(r"<(?:script|link|img|iframe|source|video)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Look through the finished page."""
    if found := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} would load {found[1]}: keep a copy below docs/, or leave it out.")
    return output
