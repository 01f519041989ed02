"""`[tool.distwatch]` of ./pyproject.toml: the project's own settings."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from distwatch.cli.terminal import echo
from distwatch.errors import UsageError
from distwatch.foreign_files import read_named

KEYS = ("dir", "run_id", "deadlines", "on_hang", "integrations", "observer", "ring", "keep",
        "notify", "drain")  # fmt: skip
_FIX = "Fix [tool.distwatch], or run from another folder."


class _Tool(msgspec.Struct):
    distwatch: dict[str, object] = {}


class _Project(msgspec.Struct):
    tool: _Tool = msgspec.field(default_factory=_Tool)


def project_settings() -> dict[str, str]:
    """The project's settings as values of DISTWATCH_* variables; empty where it has none.

    Raises:
        UsageError: the file or the table is not valid.
    """
    try:
        content = read_named("pyproject.toml", 4 << 20)
        if b"distwatch" not in content:
            return {}
        table = msgspec.toml.decode(content, type=_Project).tool.distwatch
    except FileNotFoundError:
        return {}
    except ImportError:
        echo(
            "distwatch: [tool.distwatch] of ./pyproject.toml was not read: it needs Python 3.11 "
            "or the tomli package",
            err=True,
        )
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"./pyproject.toml cannot be read: {error}", advice=_FIX) from None
    return _values(table)


def _values(table: Mapping[str, object]) -> dict[str, str]:
    values = {key.replace("-", "_"): _value(key, value) for key, value in table.items()}
    if unknown := sorted(set(values) - set(KEYS)):
        raise UsageError(
            f"[tool.distwatch] of ./pyproject.toml has unknown keys: {', '.join(unknown)}",
            advice=f"The keys are {', '.join(KEYS)}.",
        )
    return values


def _value(key: str, value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={number}" for name, number in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(
            f"{key} of [tool.distwatch] in ./pyproject.toml is {value!r}",
            advice="Write the value as in the DISTWATCH_ variable of that name.",
        )
    return str(value)
