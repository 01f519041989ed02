"""`python -m distwatch.observer.cluster.ray_client WHAT ADDRESS`: one question to a Ray cluster.

A process of its own, which its caller can end: Ray waits without limit for a cluster that is sick,
and ends its process where it cannot go on. One line of JSON on stdout is the answer.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from typing import Any

from distwatch.observer.cluster.ray_actors import (
    NAMESPACE,
    RUN_ACTOR,
    place_run_actor,
)

ALL_PLACED_WITHIN_S = 60.0
ASK_WITHIN_S = 20.0
_ASK_AGAIN_S = 0.5


def main(what: str, address: str) -> dict[str, Any]:
    """Connects, and asks."""
    import ray

    # Ray's own words belong into nobody's answer.
    with contextlib.redirect_stdout(sys.stderr):
        ray.init(
            address=address or "auto",
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
        )
    if what == "up":
        return _up()
    try:
        actor = ray.get_actor(RUN_ACTOR, namespace=NAMESPACE)
    except ValueError:
        return {"absent": True}
    if what == "end":
        ray.get(actor.end.remote(), timeout=ASK_WITHIN_S)
        ray.kill(actor)
        return {}
    if what == "cards":
        told: dict[str, Any] = ray.get(actor.roots_of.remote({}), timeout=ASK_WITHIN_S)
        return told
    return _table(actor)


def _up() -> dict[str, Any]:
    """Until every living node's actor answers, or time is over."""
    actor = place_run_actor(os.environ.get("DISTWATCH_DIR", ""))
    until = time.monotonic() + ALL_PLACED_WITHIN_S
    while True:
        table = _table(actor)
        waited_for = [row for row in table["nodes"] if row["alive"] and "pid" not in row]
        if not waited_for or time.monotonic() > until:
            return {**table, "open": _is_open()}
        time.sleep(_ASK_AGAIN_S)


def _table(actor: Any) -> dict[str, Any]:
    import ray

    found: dict[str, Any] = ray.get(actor.table.remote(), timeout=ALL_PLACED_WITHIN_S)
    return found


def _is_open() -> bool:
    """Whether whoever reaches this cluster may use it, as far as Ray says."""
    raylet: Any = importlib.import_module("ray._raylet")
    try:
        return bool(raylet.get_authentication_mode() == raylet.AuthenticationMode.DISABLED)
    except AttributeError:  # before tokens, everybody might
        return True


if __name__ == "__main__":
    try:
        answer = main(sys.argv[1], sys.argv[2])
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}".strip().partition("\n")[0][:400]}
    print(json.dumps(answer), flush=True)
    # Ray's way of leaving a cluster may wait for it.
    os._exit(0)
