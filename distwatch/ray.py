"""Ray: distwatch in every worker of a Ray job, without code in its actors. Does not import Ray.

    ray.init(runtime_env=distwatch.ray.runtime_env({"env_vars": {…}}))      in the driver's code
    RAY_RUNTIME_ENV_HOOK=distwatch.ray.extend_runtime_env python driver.py  without
    distwatch run -- python driver.py                                       the same, set for you

Ray calls a job's setup hook in each worker before it creates the actor, and ends a worker whose hook
raises. So distwatch's own hook reports its failures and never raises; the user's hook may raise.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from distwatch.launch import ray_run_name
from distwatch.visible_text import say

HOOK_VARIABLE = "RAY_RUNTIME_ENV_HOOK"
HOOK = "distwatch.ray.extend_runtime_env"
USERS_HOOK_VARIABLE = "DISTWATCH_RAY_USERS_HOOK"
"""The RAY_RUNTIME_ENV_HOOK that `distwatch run` replaced with its own: it is called first."""
NOT_PASSED_ON = (
    USERS_HOOK_VARIABLE,
    "DISTWATCH_HOST",
    "DISTWATCH_TOKEN",
    "DISTWATCH_NOTIFY",
    "DISTWATCH_DRAIN",
)
"""Only for the driver: Ray shows a job's runtime_env to every user of its dashboard."""
_SETUP = "worker_process_setup_hook"


def runtime_env(given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A `runtime_env` for `ray.init` with distwatch on in every worker of the job.

    Args:
        given: your own `runtime_env`. It is kept: your variables win, and your
            `worker_process_setup_hook` runs after distwatch's.
    """
    extended = dict(given or {})
    if os.environ.get("DISTWATCH") == "0":
        return extended
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("DISTWATCH_") and name not in NOT_PASSED_ON
    }
    extended["env_vars"] = {**settings, "DISTWATCH": "1", **(extended.get("env_vars") or {})}
    users = extended.get(_SETUP)
    if not getattr(users, "by_distwatch", False):
        extended[_SETUP] = _setup_hook(users)
    return extended


def extend_runtime_env(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The target of RAY_RUNTIME_ENV_HOOK: Ray passes the driver's `runtime_env` through it.

    Another hook that was in that variable before `distwatch run` is called first.
    """
    if before := os.environ.get(USERS_HOOK_VARIABLE):
        from pkgutil import resolve_name

        given = resolve_name(before)(given)
    try:
        return runtime_env(given)
    except Exception as error:
        say(f"Ray's workers run without distwatch: {error}")
        return given


def job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that turn distwatch on in a driver and so in its Ray job, for `distwatch run`."""
    added = {HOOK_VARIABLE: HOOK}
    if (before := environ.get(HOOK_VARIABLE)) and before != HOOK:
        added[USERS_HOOK_VARIABLE] = before
    return added


def set_up_worker() -> None:
    """In a Ray worker, before its actor is made: turns distwatch on. Never raises."""
    try:
        if os.environ.get("DISTWATCH") == "0":
            return
        if not os.environ.get("DISTWATCH_RUN_ID") and (name := ray_run_name()):
            os.environ["DISTWATCH_RUN_ID"] = name
        from distwatch import auto
        from distwatch.agent.entry import enter_run, role_of
        from distwatch.agent.standby import stand_by

        auto.activate()
        if (role := role_of(sys.orig_argv, os.environ)) == "rank":
            enter_run(os.environ)
        # An actor that never loads torch, or whose rank comes later, is in the run, too.
        stand_by(follow_forks=role == "other")
    except Exception as error:
        say(f"off in Ray worker {os.getpid()}: {error}")


def _setup_hook(users: Callable[[], None] | str | None) -> Callable[[], None]:
    """distwatch's hook, followed by the user's.

    It is a nested function, so that Ray sends it by value: a worker whose Python has no distwatch
    reports that and continues.
    """

    def set_up() -> None:
        try:
            from distwatch.ray import set_up_worker

            set_up_worker()
        except Exception as error:
            print(f"distwatch: off in this Ray worker: {error}")
        if isinstance(users, str):
            from pkgutil import resolve_name

            resolve_name(users)()
        elif users is not None:
            users()

    set_up.by_distwatch = True  # type: ignore[attr-defined]
    set_up.__name__ = f"distwatch_and_{getattr(users, '__name__', users)}" if users else "distwatch"
    return set_up
