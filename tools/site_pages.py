"""A hook of mkdocs: the repository's own pages are pages of the site, too, and are written only once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
_MARK = re.compile(r"\||[-*] |\d+\. ")
_LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds those pages; their links lead to the site's pages instead of the repository's files."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_on_the_site, text)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """The same for the links of the docs to those pages; lists and tables begin as on GitHub, too."""
    return "\n".join(_set_apart(_LINK.sub(_on_the_site, markdown).splitlines()))


def _set_apart(lines: list[str]) -> Iterator[str]:
    """Gives a list or a table the empty line before it that Python's Markdown needs to see one."""
    fenced, before = False, ""
    for line in lines:
        fenced ^= line.startswith("```")
        mark = None if fenced or _MARK.match(before) else _MARK.match(line)
        if mark and before.strip() and (mark[0] == "|" or not before.startswith(" ")):
            yield ""
        yield line
        before = line


def _on_the_site(link: re.Match[str]) -> str:
    pages = {source: page for page, source in PAGES.items()}
    path = link["path"].removeprefix("../").removeprefix("docs/")
    return f"]({pages.get(path, path)}{link['anchor'] or ''})"
