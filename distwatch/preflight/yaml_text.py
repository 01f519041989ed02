"""YAML as plain data, with the line of each key. Never runs code from the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from distwatch.errors import PlanInvalid

Path = tuple[str, ...]
LARGEST_BYTES = 1 << 20
MOST_VALUES = 50_000
_REFERENCE = re.compile(r"\$\{\s*(\.*[\w.\-\[\]]+)\s*\}")
_SELECTED = re.compile(r"\$\{\s*oc\.select\s*:\s*([\w.\-]+)\s*(?:,\s*(.*?))?\s*\}", re.S)
_HOPS = 20
_DEEPEST = 40
_HEAD = 400


class Unresolved(str):
    """A value that the file alone does not give; the text says what it holds instead."""


class Document:
    """One YAML file: its values by path, and their lines.

    Attributes:
        head: how its text begins.

    Args:
        name: of the file, for messages.

    Raises:
        PlanInvalid: it is empty, too large, not YAML, or not a mapping.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        if len(text) > LARGEST_BYTES:
            raise PlanInvalid(
                f"{name} has {len(text)} characters: that is too long for a plan",
                advice="Name the configuration file of the job.",
            )
        self.head = text[:_HEAD]
        self.root = _load(text, name)
        self._lines = {path: (name, line) for path, line in _lines(text, name).items()}

    def compose(self, parts: Iterable[tuple[Document, Path]]) -> None:
        """Puts the contents of files, each at its path, in place of its own; a later one overrides earlier ones."""
        root: dict[str, Any] = {}
        lines: dict[Path, tuple[str, int]] = {}
        for part, package in parts:
            content: Any = {key: one for key, one in part.root.items() if key != "defaults"}
            for name in reversed(package):
                content = {name: content}
            root = _merged(root, content, 0)
            lines |= {(*package, *path): place for path, place in part._lines.items()}
        self.root, self._lines = root, lines

    def where(self, path: Path) -> str:
        """`plan.yaml line 3`, as far as it is known."""
        place = self._lines.get(path)
        return self.name if place is None else f"{place[0]} line {place[1]}"

    def invalid(self, path: Path, what: str, advice: str) -> PlanInvalid:
        """The error about what stands there."""
        return PlanInvalid(f"{self.where(path)}: {what}", advice=advice)

    def line(self, path: Path) -> int:
        """The line of a key; 0 where it is not known."""
        return self._lines.get(path, ("", 0))[1]

    def mappings(self) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        """Every mapping of the file, the outer ones first."""
        pending: list[tuple[Path, Any]] = [((), self.root)]
        for seen, (path, value) in enumerate(pending):
            if seen > MOST_VALUES:
                break
            if isinstance(value, dict) and len(path) <= _DEEPEST:
                yield path, value
                pending += [((*path, str(key)), one) for key, one in value.items()]

    def mapping(self, path: Path) -> Mapping[str, Any]:
        """The mapping at a path; {} where there is none."""
        found = self.root
        for name in path:
            inner: Any = next((one for key, one in found.items() if str(key) == name), None)
            found = inner if isinstance(inner, dict) else {}
        return found

    def at(self, path: Path) -> Any:
        """The value at a path, with references resolved; None where there is none, or it is null."""
        for _ in range(_HOPS):
            value = self._plain(path)
            if not isinstance(value, str) or "${" not in value:
                return _missing(value)
            target = self._target(value, path)
            if target is None:
                return Unresolved(value)
            path, default = target
            if default is not None and self._plain(path) is None:
                return default
        return Unresolved(f"{value} (a circular reference)")

    def _plain(self, path: Path) -> Any:
        value: Any = self.root
        for name in path:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value

    def _target(self, text: str, path: Path) -> tuple[Path, Any] | None:
        """The path that a reference names, and the value to use where there is none."""
        if match := _REFERENCE.fullmatch(text.strip()):
            name, default = match[1], None
        elif match := _SELECTED.fullmatch(text.strip()):
            name, default = match[1], _default(match[2])
        else:
            return None
        dots = len(name) - len(name.lstrip("."))
        base = path[: len(path) - dots] if dots else ()
        target = (*base, *(part for part in name.strip(".").split(".") if part))
        if "[" in name or (default is None and not self._has(target)):
            return None
        return target, default

    def _has(self, path: Path) -> bool:
        parent = self._plain(path[:-1]) if path else None
        return isinstance(parent, dict) and path[-1] in parent


def _merged(below: Mapping[str, Any], above: Mapping[str, Any], depth: int) -> dict[str, Any]:
    found = dict(below)
    for key, value in above.items():
        held = found.get(key)
        both = isinstance(held, dict) and isinstance(value, dict) and depth < _DEEPEST
        found[key] = _merged(held, value, depth + 1) if both and held is not None else value
    return found


def _missing(value: Any) -> Any:
    # OmegaConf's mark for a value that the command line must give.
    return Unresolved("???") if value == "???" else value


def _default(text: str | None) -> Any:
    try:
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return Unresolved(text or "")


def _load(text: str, name: str) -> Mapping[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanInvalid(
            f"{name} is not YAML: {_words(error)}", advice="Fix that line; nothing was checked."
        ) from None
    except RecursionError:
        raise PlanInvalid(
            f"{name} is nested too deeply", advice="Is that the right file?"
        ) from None
    except Exception as error:
        # PyYAML does not wrap what its constructors raise (`!!int x`, `2001-13-99`).
        raise PlanInvalid(
            f"{name} has a value that YAML cannot build: {error or type(error).__name__}",
            advice="Look for a tag (!!…) or an invalid date.",
        ) from None
    if value is None:
        raise PlanInvalid(
            f"{name} is empty", advice="A plan has at least a size, e.g. `tensor: 2`."
        )
    if not isinstance(value, dict):
        raise PlanInvalid(
            f"{name} holds a {_kind(value)}, not a mapping",
            advice="Write keys and values, e.g. `tensor: 2`.",
        )
    return value


def _words(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark is not None else str(problem)


def _kind(value: Any) -> str:
    names: dict[type, str] = {list: "list", str: "text"}
    return names.get(type(value), "single value")


def _lines(text: str, name: str) -> dict[Path, int]:
    """The line of each key.

    Raises:
        PlanInvalid: a key appears twice in one mapping; YAML would silently take the last value.
    """
    lines: dict[Path, int] = {}
    pending: list[tuple[Path, Any]] = [((), yaml.compose(text, Loader=yaml.SafeLoader))]
    for path, node in pending:
        # An alias repeats its whole tree, so nested aliases grow without limit.
        if len(pending) > MOST_VALUES:
            raise PlanInvalid(
                f"{name} has more than {MOST_VALUES} values", advice="Is that the right file?"
            )
        if not isinstance(node, yaml.MappingNode):
            continue
        if len(path) > _DEEPEST:
            raise PlanInvalid(f"{name} is nested too deeply", advice="Is that the right file?")
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            word = str(key.value)
            if word in seen and word != "<<":
                raise PlanInvalid(
                    f"{name} line {key.start_mark.line + 1}: {word!r} appears twice",
                    advice="Remove one of them.",
                )
            seen.add(word)
            place = (*path, word)
            lines[place] = key.start_mark.line + 1
            pending.append((place, value))
    return lines
