"""The declared integrations and their honest status. Imports none of the libraries."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from types import ModuleType
from typing import NamedTuple, Protocol

from distwatch.agent import core
from distwatch.agent.guard import caller_site
from distwatch.hooks.imports import when_imported
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.frameworks import TRIGGERS
from distwatch.settings import Settings
from distwatch.state.events import IntegrationChanged, IntegrationStatus, Site

log = logging.getLogger("distwatch")


class IntegrationSpec(NamedTuple):
    """One library; applied right after `trigger` has been imported."""

    name: str
    trigger: str
    file: str
    """Its file in `distwatch/integrations/`, without the ending."""
    part_of: str = ""
    """The integration whose name switches it off, where that is not its own name."""


class Implementation(Protocol):
    """What an integration's module, or the `framework` in it, provides."""

    def apply(self, module: ModuleType, patches: PatchSet) -> str:
        """Patches; returns a remark on what could not be hooked, '' where everything was."""
        ...


class NotApplicable(Exception):
    """The library is loaded, but not in a form that this integration knows."""


CALLS = "torch_calls"
"""Recording each collective's call site: a part of torch_distributed that can be switched off alone."""
REGISTRY = (
    IntegrationSpec("torch_distributed", "torch.distributed.distributed_c10d", "torch_distributed"),
    IntegrationSpec("device_mesh", "torch.distributed.device_mesh", "device_mesh"),
    IntegrationSpec("huggingface_hub", "huggingface_hub.file_download", "huggingface_hub"),
    IntegrationSpec("accelerate", "accelerate.big_modeling", "accelerate"),
    *(
        IntegrationSpec(name, trigger, "transformers", part_of="transformers")
        for name, trigger in (
            ("transformers_config", "transformers.configuration_utils"),
            ("transformers", "transformers.modeling_utils"),
            ("transformers_auto", "transformers.models.auto.auto_factory"),
        )
    ),
    IntegrationSpec("ray", "ray._private.worker", "ray"),
    IntegrationSpec("peft", "peft.peft_model", "peft"),
    *(
        IntegrationSpec(f"{name}_groups", trigger, f"frameworks.{name}", part_of=name)
        for name, trigger in TRIGGERS.items()
    ),
)


class Status(NamedTuple):
    """armed, applied, skipped, failed or removed; and why."""

    status: IntegrationStatus
    reason: str = ""
    version: str = ""


_statuses: dict[str, Status] = {}
_patches: dict[str, PatchSet] = {}


def arm(settings: Settings) -> None:
    """Waits for each library's import; loaded ones are hooked at once. Idempotent."""
    if not _statuses and (complaint := unknown_names(settings)):
        log.warning("distwatch: %s", complaint)
    for spec in REGISTRY:
        if spec.name in _statuses and _statuses[spec.name].status != "removed":
            continue
        if not settings.wants(spec.part_of or spec.name):
            _set(spec.name, Status("skipped", "switched off by DISTWATCH_INTEGRATIONS"))
            continue
        _set(spec.name, Status("armed"))
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
    """Hooks one library; a failure leaves it as it was and is the status."""
    if _statuses.get(spec.name, Status("removed")).status not in ("armed", "failed"):
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
        _set(spec.name, Status("skipped", str(reason), version))
    except Exception as error:
        patches.undo()
        _set(spec.name, Status("failed", f"{type(error).__name__}: {error}", version))
        log.warning("distwatch: %s is not hooked; the job goes on (%s)", spec.name, error)
    else:
        _patches[spec.name] = patches
        _set(spec.name, Status("applied", remark, version))


def _version_of(module: str) -> str:
    """From the outermost package that has one: `megatron` itself is only a folder of others."""
    parts = module.split(".")
    packages = (sys.modules.get(".".join(parts[:n])) for n in range(1, len(parts) + 1))
    return next((str(v) for p in packages if (v := getattr(p, "__version__", None))), "")


def undo_all() -> None:
    """Removes every hook, the last applied first."""
    for name, patches in reversed(list(_patches.items())):
        complete = patches.undo()
        _set(name, Status("removed", "" if complete else "a later wrapper keeps ours in place"))
    _patches.clear()


def statuses() -> dict[str, Status]:
    """The status of each integration, by name."""
    return dict(_statuses)


def folders_of(*packages: str) -> tuple[str, ...]:
    """The folders of those of the packages that are loaded, each with a final separator."""
    files = (getattr(sys.modules.get(package), "__file__", None) for package in packages)
    return tuple(os.path.join(os.path.dirname(file), "") for file in files if file)


def site_outside(*packages: str) -> Site | None:
    """The user's own line: outside distwatch and those packages."""
    return caller_site(folders_of(*packages))


def running_agent() -> core.Agent | None:
    """The agent; started now if this process had no reason for one before."""
    agent = core.current()
    if agent is None and (agent := core.start()) is not None:
        for name, status in _statuses.items():
            agent.record_news(_changed(name, status))
    return agent


def _set(name: str, status: Status) -> None:
    _statuses[name] = status
    if agent := core.current():
        agent.record_news(_changed(name, status))


def _changed(name: str, status: Status) -> IntegrationChanged:
    return IntegrationChanged(
        name=name, status=status.status, reason=status.reason, version=status.version
    )
