"""`python -m distwatch.observer.cluster.ray_client WHAT ADDRESS`: asks a Ray cluster one question.

A separate process, which its caller can end: Ray waits without limit for an unhealthy cluster, and
ends its process when it cannot continue. The answer is one line of JSON on stdout.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from typing import Any

from distwatch.observer.cluster import ray_placing
from distwatch.observer.cluster.ray_actors import place_run_actor

ALL_PLACED_WITHIN_S = 60.0
ASK_WITHIN_S = 20.0
NONE_LEFT_WITHIN_S = 30.0
_ASK_AGAIN_S = 0.5


def main(what: str, address: str) -> dict[str, Any]:
    """Connects and asks.

    Args:
        what: `up`, `end` or `cards`.
        address: as for `ray.init`; '' is the cluster of this machine.
    """
    import ray

    # Ray's own output must not get into the answer.
    with contextlib.redirect_stdout(sys.stderr):
        ray.init(
            address=address or "auto",
            namespace=ray_placing.NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
        )
    if what == "up":
        return _up()
    if what == "end":
        return _end()
    try:
        actor = ray.get_actor(ray_placing.RUN_ACTOR, namespace=ray_placing.NAMESPACE)
    except ValueError:
        return {"absent": True}
    told: dict[str, Any] = ray.get(actor.roots_of.remote({}), timeout=ASK_WITHIN_S)
    return told


def _up() -> dict[str, Any]:
    """Places the run actor; returns when every living node's actor answers, or time is up."""
    import ray

    ray_placing.mark_stopped(False)
    actor = place_run_actor(os.environ.get("DISTWATCH_DIR", ""))
    until = time.monotonic() + ALL_PLACED_WITHIN_S
    while True:
        table: dict[str, Any] = ray.get(actor.table.remote(), timeout=ALL_PLACED_WITHIN_S)
        waited_for = [row for row in table["nodes"] if row["alive"] and "pid" not in row]
        if not waited_for or time.monotonic() > until:
            return {**table, "open": _is_open()}
        time.sleep(_ASK_AGAIN_S)


def _end() -> dict[str, Any]:
    """Kills our actors until none is left: a late one may have placed another."""
    import ray

    ray_placing.mark_stopped(True)
    if not ray_placing.named_actors():
        return {"absent": True}
    until = time.monotonic() + NONE_LEFT_WITHIN_S
    rounds_without = 0
    while rounds_without < 2:
        left = ray_placing.named_actors()
        rounds_without = 0 if left else rounds_without + 1
        if time.monotonic() > until:
            raise TimeoutError(f"these actors are left: {', '.join(sorted(left))}")
        if not ray_placing.is_stopped():
            raise InterruptedError("`distwatch up --ray` was run meanwhile")
        # The run actor first: it would place the others again.
        for name in sorted(left, key=lambda name: name != ray_placing.RUN_ACTOR):
            with contextlib.suppress(ValueError):  # it is gone
                ray.kill(ray.get_actor(name, namespace=ray_placing.NAMESPACE))
        time.sleep(_ASK_AGAIN_S)
    return {}


def _is_open() -> bool:
    """Whether anyone who reaches this cluster may use it, as far as Ray says."""
    raylet: Any = importlib.import_module("ray._raylet")
    try:
        return bool(raylet.get_authentication_mode() == raylet.AuthenticationMode.DISABLED)
    except AttributeError:  # a Ray without tokens is open to everybody
        return True


if __name__ == "__main__":
    try:
        answer = main(sys.argv[1], sys.argv[2])
    except Exception as error:
        answer = {"error": ray_placing.cause_of(error)}
    print(json.dumps(answer), flush=True)
    # Leaving a cluster in Ray's own way may wait for the cluster.
    os._exit(0)
