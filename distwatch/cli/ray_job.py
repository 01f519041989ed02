"""`distwatch run -- ray job submit …`: the driver runs on the cluster, so the settings travel with the job."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from distwatch.errors import UsageError
from distwatch.foreign_files import read_named
from distwatch.ray import NOT_PASSED_ON, job_environment

_LARGEST = 4 << 20
_FILE, _JSON = "--runtime-env", "--runtime-env-json"


def submits_job(argv: Sequence[str]) -> bool:
    """Whether a command is `ray job submit`."""
    return os.path.basename(argv[0]) == "ray" and list(argv[1:3]) == ["job", "submit"]


def with_settings(argv: Sequence[str], settings: Mapping[str, str]) -> list[str]:
    """The same command with distwatch's settings added to the job's `runtime_env`.

    Raises:
        UsageError: the command's runtime_env cannot be read.
    """
    options, entrypoint = _split(argv[3:])
    given: dict[str, Any] = {}
    left: list[str] = []
    pending = iter(options)
    for option in pending:
        name, joined, value = option.partition("=")
        if name in (_FILE, _JSON):
            given.update(_read(name, value if joined else next(pending, "")))
        else:
            left.append(option)
    users: dict[str, str] = given.get("env_vars") or {}
    passed = {name: value for name, value in settings.items() if name not in NOT_PASSED_ON}
    ours = {"DISTWATCH": "1", **passed}
    given["env_vars"] = {**ours, **users, **job_environment(users)}
    return [*argv[:3], *left, _JSON, json.dumps(given), *entrypoint]


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The options, and the entrypoint with its `--`."""
    if "--" not in arguments:
        raise UsageError(
            "the job's command does not follow `--`",
            advice="distwatch run -- ray job submit [OPTIONS] -- python driver.py",
        )
    place = list(arguments).index("--")
    return arguments[:place], arguments[place:]


def _read(option: str, value: str) -> dict[str, Any]:
    try:
        is_json = option == _JSON
        found = json.loads(value) if is_json else yaml.safe_load(read_named(value, _LARGEST))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"{option} {value} cannot be read: {error}",
            advice="Give what `ray job submit` itself accepts.",
        ) from error
    if not isinstance(found, dict):
        raise UsageError(f"{option} {value} is not a mapping", advice="See Ray's runtime_env.")
    return found
