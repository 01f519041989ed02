"""What a process's environment says: values given, derived and missing, and distwatch's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from distwatch.agent.initialization.environment import Launched, read_environment
from distwatch.launch import launch_id
from distwatch.preflight.environment import check, derived_variables
from distwatch.redaction import allowed_environment, redact_text
from distwatch.runfolder import RunFolder, folder_name
from distwatch.settings import KEEP, read_settings, run_root
from distwatch.state.finding import Finding
from distwatch.state.quantities import bytes_text

_RANK_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of distwatch, and who set it."""

    name: str
    value: str
    source: str


class LaunchEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment says.

    Attributes:
        variables: of launchers and communication, as far as they may be shown.
        completes: torch's variables that are not set but can be derived.
        missing: those that cannot be derived.
        run_id: None where nothing names the run: it will get a random name.
        complaints: sentences about settings that were ignored.
    """

    launcher: str
    place: str
    global_rank: int | None
    world_size: int | None
    local_rank: int | None
    endpoint: str
    run_id: str | None
    run_id_source: str
    run_folder: str
    run_folder_exists: bool
    variables: dict[str, str]
    derived: tuple[str, ...]
    completes: dict[str, str]
    missing: tuple[str, ...]
    settings: tuple[Setting, ...]
    complaints: tuple[str, ...]
    findings: list[Finding]


def read_launch_environment(environ: Mapping[str, str], pid: int | None) -> LaunchEnvironment:
    """Reads an environment.

    Args:
        pid: of the process with that environment; None for a process started from this shell.
    """
    launched = read_environment(environ)
    alone = launched.method == "alone"
    derived = {} if alone else derived_variables(launched)
    completes = {n: derived[n] for n in _RANK_VARIABLES if n in derived and not environ.get(n)}
    run_id, source = _run_id(environ)
    folder = _run_folder(environ, run_id)
    return LaunchEnvironment(
        launcher=launched.launcher,
        place=redact_text(_place(launched)),
        global_rank=launched.global_rank,
        world_size=launched.world_size,
        local_rank=launched.local_rank,
        endpoint=redact_text(launched.endpoint),
        run_id=run_id,
        run_id_source=source,
        run_folder=folder,
        run_folder_exists=os.path.isdir(folder),
        variables=allowed_environment(environ),
        derived=tuple(map(redact_text, launched.derived)),
        completes=completes,
        missing=launched.missing,
        settings=_settings(environ),
        complaints=read_settings(environ).complaints,
        findings=[_without_secrets(finding) for finding in check(environ, pid=pid)],
    )


def _place(launched: Launched) -> str:
    if launched.method == "alone":
        return "a single process without peers"
    rank = (
        "a rank without a number"
        if launched.global_rank is None
        else f"rank {launched.global_rank}"
    )
    world = "an unknown number" if launched.world_size is None else str(launched.world_size)
    where = "does not know the store's endpoint"
    if launched.endpoint:
        where = f"connects to the store at {launched.endpoint}"
    hosts = ", which it hosts" if launched.hosts_store and launched.endpoint else ""
    return f"{rank} of {world}, {where}{hosts}"


def _without_secrets(finding: Finding) -> Finding:
    evidence = tuple(
        msgspec.structs.replace(one, text=redact_text(one.text)) for one in finding.evidence
    )
    return msgspec.structs.replace(finding, summary=redact_text(finding.summary), evidence=evidence)


def _run_id(environ: Mapping[str, str]) -> tuple[str | None, str]:
    if said := environ.get("DISTWATCH_RUN_ID"):
        return redact_text(said), "DISTWATCH_RUN_ID"
    launched = launch_id(environ)
    if launched is None:
        return None, "nothing names it: it will get a random name"
    return redact_text(launched), "launcher"


def _run_folder(environ: Mapping[str, str], run_id: str | None) -> str:
    root = run_root(environ)
    if run_id is None:
        return root
    return RunFolder(os.path.join(root, folder_name(run_id))).path


def _settings(environ: Mapping[str, str]) -> tuple[Setting, ...]:
    settings = read_settings(environ)
    deadlines = ",".join(f"{kind}={seconds:g}" for kind, seconds in settings.deadlines.items())
    enabled = {True: "1", False: "0", None: "not set: on only where the job asks for it"}[
        settings.enabled
    ]
    values = {
        "DISTWATCH": enabled,
        "DISTWATCH_DIR": settings.root,
        "DISTWATCH_RUN_ID": settings.run_id or "not set: named by the launcher",
        "DISTWATCH_DEADLINES": deadlines,
        "DISTWATCH_ON_HANG": settings.on_hang,
        "DISTWATCH_INTEGRATIONS": environ.get("DISTWATCH_INTEGRATIONS") or "all",
        "DISTWATCH_OBSERVER": settings.observer,
        "DISTWATCH_RING": bytes_text(settings.ring),
        "DISTWATCH_KEEP": environ.get("DISTWATCH_KEEP") or KEEP,
        # Both may hold a secret in any place.
        "DISTWATCH_NOTIFY": "set" if environ.get("DISTWATCH_NOTIFY") else "not set: nobody is told",
        "DISTWATCH_DRAIN": "set" if environ.get("DISTWATCH_DRAIN") else "not set",
    }
    return tuple(
        Setting(name=name, value=redact_text(value), source=_source(name, environ))
        for name, value in values.items()
    )


def _source(name: str, environ: Mapping[str, str]) -> str:
    if environ.get(name):
        return "environment"
    if name == "DISTWATCH_DIR" and environ.get("XDG_RUNTIME_DIR"):
        return "XDG_RUNTIME_DIR"
    return "default"
