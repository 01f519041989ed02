"""The files that a report's page is made of, and what allows its script to run."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def part(name: str, package: str = "distwatch.report") -> str:
    """The text of a template, a style or a script of a package."""
    return files(package).joinpath(f"templates/{name}").read_text("utf-8")


def script_hash(name: str, package: str = "distwatch.report") -> str:
    """What a Content-Security-Policy says so that this script of ours runs, and no other."""
    digest = hashlib.sha256(part(name, package).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
