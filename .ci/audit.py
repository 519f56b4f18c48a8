"""Asks a vulnerability service about the pinned versions: `make audit`. It needs the network; the other checks do not.

Ends with 0 where nothing is known against any of them, with 1 where something is, and with 3 where nobody could be
asked: then nothing is known either way. pip-audit itself ends with 0 in that case too, where a mirror of the package
index answers but knows nothing of vulnerabilities.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
FOUND, NOT_ASKED = 1, 3
_SECONDS_A_REQUEST, _SECONDS = 15, 900


def main() -> int:
    """Run pip-audit and say what it came to."""
    command = [
        *(sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip"),
        *("--format", "json", "--progress-spinner", "off", "--timeout", str(_SECONDS_A_REQUEST)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        report = {"dependencies": []}
    code, lines = verdict(report)
    print("\n".join(lines))
    return code


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Exit code and words for pip-audit's report."""
    known = [one for one in report["dependencies"] if "vulns" in one]
    unknown = [one["name"] for one in report["dependencies"] if "vulns" not in one]
    if not known:
        return NOT_ASKED, ["audit: the vulnerability service cannot be reached from here: nothing was audited."]
    lines = [
        f"audit: {one['name']} {one['version']}: {vulnerability['id']}, mended in "
        f"{', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for one in known
        for vulnerability in one["vulns"]
    ]
    if unknown:
        lines.append(f"audit: not known to the service, so not audited: {', '.join(unknown)}.")
    found = any(one["vulns"] for one in known)
    lines.append(f"audit: {len(known)} packages, {'see above' if found else 'nothing known against them'}.")
    return FOUND if found else 0, lines


if __name__ == "__main__":
    sys.exit(main())
