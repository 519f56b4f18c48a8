"""Templates to text. Everything that comes from data is escaped, and only the page's own script may run."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from boxtune.errors import SaveError

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("boxtune", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_SCRIPT: Final = "evaluation/page/page.js"


def render(template: str, **content: Any) -> str:
    """A page as text.

    Args:
        template: its path within the package, such as `evaluation/page/report.html`.
        content: the template's variables; one that is missing is an error.
    """
    script = _ENVIRONMENT.get_template(_SCRIPT).render()
    # Escaping keeps strange text from becoming a script; should it ever fail, the browser runs this one and no other.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    own = Markup(script)  # nosec B704
    return _ENVIRONMENT.get_template(template).render(**content, script=own, script_digest=digest)


def write_page(path: Path, text: str) -> None:
    """Write a page as UTF-8; half characters (lone surrogates) become question marks.

    Raises:
        SaveError: the file cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror}. Choose another place.") from None
