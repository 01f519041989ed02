"""The check of the manifests finds a wrong key in a manifest of every kind, also within a pod's template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.check_manifests import FOLDER, complaints_about

MANIFESTS = sorted(FOLDER.glob("*.yaml"))


def walk(node: Any) -> Any:
    """Every mapping of a manifest."""
    if isinstance(node, dict):
        yield node
    for value in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        yield from walk(value)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_misspelt_key_is_named(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    assert not list(complaints_about(manifest))
    held = [node for node in walk(manifest) if "capabilities" in node]
    assert held, "it says which rights it needs"
    for node in held:
        node["capabilites"] = node.pop("capabilities")
        told = " ".join(complaints_about(manifest))
        assert "capabilites" in told, told
        node["capabilities"] = node.pop("capabilites")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_value_of_another_type_is_named(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    container = next(node for node in walk(manifest) if "image" in node)
    container["command"] = {"not": "a list"}
    assert list(complaints_about(manifest))
