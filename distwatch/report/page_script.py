"""The files that a report's page is made of, and what allows its script to run."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def part(name: str) -> str:
    """The text of a template, the style or the script."""
    return files("distwatch.report").joinpath(f"templates/{name}").read_text("utf-8")


def script_hash() -> str:
    """What a Content-Security-Policy says so that the page's own script runs, and no other."""
    digest = hashlib.sha256(part("report.js").encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
