"""The declared integrations and their status. Imports none of the libraries."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from types import ModuleType
from typing import Protocol

from distwatch.agent import core
from distwatch.agent.guard import caller_site
from distwatch.hooks.imports import when_imported
from distwatch.hooks.patch import PatchSet
from distwatch.integrations import REGISTRY, IntegrationSpec
from distwatch.settings import Settings
from distwatch.state.events import IntegrationChanged, IntegrationStatus, Site

log = logging.getLogger("distwatch")


class Implementation(Protocol):
    """What an integration's module, or the `framework` in it, provides."""

    def apply(self, module: ModuleType, patches: PatchSet) -> str:
        """Patches; returns a remark on what could not be hooked, '' where everything was."""
        ...


class NotApplicable(Exception):
    """The library is loaded, but not in a form that this integration knows."""


CALLS = "torch_calls"
"""Recording each collective's call site: a part of torch_distributed that can be switched off alone."""
_statuses: dict[str, IntegrationChanged] = {}
_patches: dict[str, PatchSet] = {}


def arm(settings: Settings) -> None:
    """Waits for each library's import; loaded ones are hooked at once. Idempotent."""
    if not _statuses and (complaint := unknown_names(settings)):
        log.warning("distwatch: %s", complaint)
    for spec in REGISTRY:
        if _status_of(spec.name) != "removed":
            continue
        if not settings.wants(spec.part_of or spec.name):
            _set(spec.name, "skipped", "switched off by DISTWATCH_INTEGRATIONS")
            continue
        _set(spec.name, "armed")
        when_imported(spec.trigger, lambda module, spec=spec: apply(spec, module))  # type: ignore[misc]


def unknown_names(settings: Settings) -> str:
    """A sentence about the names in DISTWATCH_INTEGRATIONS that are none; '' where all are known."""
    known = {spec.part_of or spec.name for spec in REGISTRY} | {CALLS}
    asked = settings.integrations_off | (settings.integrations_only or frozenset())
    unknown = sorted(asked - known)
    if not unknown:
        return ""
    from distwatch.errors import did_you_mean  # difflib takes 3 ms

    hint = did_you_mean(unknown[0], known, f"There are {', '.join(sorted(known))}.")
    return f"DISTWATCH_INTEGRATIONS names {', '.join(unknown)}. {hint}"


def apply(spec: IntegrationSpec, module: ModuleType) -> None:
    """Hooks one library; after a failure it is unchanged, and the status says why."""
    if _status_of(spec.name) not in ("armed", "failed"):
        return
    patches = PatchSet()
    version = _version_of(spec.trigger)
    try:
        found = importlib.import_module(f"distwatch.integrations.{spec.file}")
        implementation: Implementation = getattr(found, "framework", found)
        version = version or getattr(implementation, "version", str)()
        remark = implementation.apply(module, patches)
    except NotApplicable as reason:
        patches.undo()
        _set(spec.name, "skipped", str(reason), version)
    except Exception as error:
        patches.undo()
        _set(spec.name, "failed", f"{type(error).__name__}: {error}", version)
        log.warning("distwatch: %s is not hooked; the job continues (%s)", spec.name, error)
    else:
        _patches[spec.name] = patches
        _set(spec.name, "applied", remark, version)


def _version_of(module: str) -> str:
    """The version of the outermost package that has one: `megatron` is only a namespace."""
    parts = module.split(".")
    packages = (sys.modules.get(".".join(parts[:n])) for n in range(1, len(parts) + 1))
    return next((str(v) for p in packages if (v := getattr(p, "__version__", None))), "")


def undo_all() -> None:
    """Removes every hook, the last applied first."""
    for name, patches in reversed(list(_patches.items())):
        complete = patches.undo()
        _set(
            name,
            "removed",
            "" if complete else "other code has wrapped the hook: it stays, inactive",
        )
    _patches.clear()


def statuses() -> dict[str, IntegrationChanged]:
    """The latest status of each integration, by name."""
    return dict(_statuses)


def folders_of(*packages: str) -> tuple[str, ...]:
    """The folders of those of the packages that are loaded, each with a final separator."""
    files = (getattr(sys.modules.get(package), "__file__", None) for package in packages)
    return tuple(os.path.join(os.path.dirname(file), "") for file in files if file)


def site_outside(*packages: str) -> Site | None:
    """The user's own line: outside distwatch and those packages."""
    return caller_site(folders_of(*packages))


def running_agent() -> core.Agent | None:
    """This process's agent, started now if necessary."""
    agent = core.current()
    if agent is None and (agent := core.start()) is not None:
        for changed in _statuses.values():
            agent.record_news(changed)
    return agent


def _status_of(name: str) -> IntegrationStatus:
    return _statuses[name].status if name in _statuses else "removed"


def _set(name: str, status: IntegrationStatus, reason: str = "", version: str = "") -> None:
    changed = IntegrationChanged(name=name, status=status, reason=reason, version=version)
    _statuses[name] = changed
    if agent := core.current():
        agent.record_news(changed)
