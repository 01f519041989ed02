"""A hook of mkdocs: the repository's own pages are pages of the site, too, and are written only once."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
_LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds those pages; their links lead to the site's pages instead of the repository's files."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_on_the_site, text)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """The same for the links of the docs to those pages."""
    return _LINK.sub(_on_the_site, markdown)


def _on_the_site(link: re.Match[str]) -> str:
    pages = {source: page for page, source in PAGES.items()}
    path = link["path"].removeprefix("../").removeprefix("docs/")
    return f"]({pages.get(path, path)}{link['anchor'] or ''})"
