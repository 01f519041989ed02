"""Hydra's defaults lists: the files that a configuration is composed of, as RLinf and verl write them.

Only local files at or below the configuration's folder and its search path are read; overrides of Hydra itself and
of the command line are not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from distwatch.foreign_files import read_named
from distwatch.preflight.yaml_text import LARGEST_BYTES, Document, Path

_MOST_FILES, _DEEPEST = 64, 8
_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*(\w+)\s*\}")
_HEADER = re.compile(r"^#\s*@package\s+([\w.@]+)", re.M)
_SELF = "_self_"


def with_defaults(document: Document, folder: str) -> list[str]:
    """Completes the document by what its defaults list names; notes about what could not be read.

    Args:
        folder: of the document's file.

    Raises:
        PlanInvalid: a file of the list is no readable YAML.
    """
    composition = _Composition(document, folder)
    parts = list(composition.parts(document, (), "", 0))
    if len(parts) > 1:
        document.compose(parts)
    return composition.notes


class _Composition:
    """One walk through a defaults list and those of the files that it names."""

    def __init__(self, document: Document, folder: str) -> None:
        self.notes: list[str] = []
        self._read = 0
        self._folders = [folder, *self._search_path(document)]

    def parts(
        self, document: Document, package: Path, group: str, depth: int
    ) -> Iterator[tuple[Document, Path]]:
        """The files in the order in which a later one overrides an earlier one."""
        given = document.root.get("defaults")
        entries = [_entry(one) for one in given] if isinstance(given, list) else []
        if (_SELF, "") not in entries:
            entries.append((_SELF, ""))
        for name, at in filter(None, entries):
            if name == _SELF:
                yield document, package
                continue
            path = name.lstrip("/") if name.startswith("/") or not group else f"{group}/{name}"
            found = self._file(path, depth)
            if found is not None:
                inner = os.path.dirname(path)
                below = _package(found, at, inner if name.startswith("/") or not group else "")
                yield from self.parts(
                    found, (*package, *below) if below is not None else (), inner, depth + 1
                )

    def _file(self, path: str, depth: int) -> Document | None:
        self._read += 1
        if self._read > _MOST_FILES or depth >= _DEEPEST:
            self.notes.append(f"defaults: more files than {_MOST_FILES}; {path} was not read")
            return None
        if ".." in path.split("/"):
            self.notes.append(f"defaults: {path} is outside of the folder, and was not read")
            return None
        for folder in self._folders:
            file = os.path.join(folder, f"{path.removesuffix('.yaml')}.yaml")
            try:
                return Document(read_named(file, LARGEST_BYTES).decode("utf-8"), file)
            except (OSError, UnicodeDecodeError):
                continue
        folders = " or ".join(folder or "." for folder in self._folders)
        self.notes.append(f"defaults: there is no readable {path}.yaml in {folders}")
        return None

    def _search_path(self, document: Document) -> Iterator[str]:
        listed = document.at(("hydra", "searchpath"))
        for one in listed if isinstance(listed, list) else ():
            if not isinstance(one, str) or not one.startswith("file://"):
                continue
            if missing := [n for n in _ENVIRONMENT.findall(one) if n not in os.environ]:
                self.notes.append(f"hydra.searchpath needs {', '.join(missing)}, which is not set")
                continue
            yield _ENVIRONMENT.sub(lambda name: os.environ[name[1]], one.removeprefix("file://"))


def _entry(given: object) -> tuple[str, str] | None:
    """`model/openvla@actor.model`, `{"env/train": "maniskill"}` → the file, and where it goes; None for none."""
    if isinstance(given, str):
        name, _, at = given.partition("@")
        return (name.strip(), at.strip()) if "${" not in given else None
    if not isinstance(given, dict) or len(given) != 1:
        return None
    key, option = next(iter(given.items()))
    words = str(key).split()
    # `override hydra/launcher: …` changes an entry of Hydra's own list.
    if not isinstance(option, str) or "${" in option or not words or words[0] == "override":
        return None
    group, _, at = words[-1].partition("@")
    return f"{group}/{option}", at


def _package(document: Document, at: str, group: str) -> Path | None:
    """Where the content goes, below the file that lists it; None: at the top."""
    header = _HEADER.search(document.head)
    named = at or (header[1] if header else group.replace("/", "."))
    if named == "_global_":
        return None
    return tuple(part for part in named.split(".") if part and part != "_here_")
