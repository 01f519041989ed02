"""Every picture that a page shows is there, was made by `make pictures`, and is shown."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


def images() -> list[tuple[Path, str, str]]:
    """Page, alternative text and address of each picture."""
    return [(page, *found) for page in PAGES for found in _IMAGE.findall(page.read_text("utf-8"))]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "tools" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_pages_picture_is_missing_or_without_words() -> None:
    found = images()
    assert found
    for page, words, address in found:
        assert words, f"{page.name}: {address} says nothing to whoever cannot see it"
        assert (page.parent / address).is_file(), (
            f"{page.name}: {address} is missing: make pictures"
        )


def test_the_tool_makes_every_picture_and_a_page_shows_it(tool: ModuleType) -> None:
    made = set(tool.NAMES)
    shown = {Path(address).name for _, _, address in images()}
    assert made == shown == {path.name for path in tool.IMAGES.iterdir()}


def test_a_picture_fetches_nothing() -> None:
    for path in (ROOT / "docs" / "images").glob("*.svg"):
        assert "url(http" not in path.read_text("utf-8")


def test_readme_opens_with_the_tui_on_a_hang() -> None:
    top = (ROOT / "README.md").read_text("utf-8")[:1200]
    assert "docs/images/tui.svg" in top
    assert "HANG" in (ROOT / "docs" / "images" / "tui.svg").read_text("utf-8")
