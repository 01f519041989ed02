"""Asks a Ray cluster's run actor, from a process of its own and within a time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

from distwatch.errors import DistwatchError, NoSuchTarget
from distwatch.observer.link.place import LinkMisconfigured, parse_place
from distwatch.redaction import redact_text

SCHEME = "ray://"
CONNECT_WITHIN_S = 5.0
_WITHIN_S = {"up": 120.0, "end": 60.0, "cards": 60.0, "table": 60.0}


class ClusterSilent(DistwatchError):
    """The Ray cluster does not answer."""


def ask_cluster(what: str, address: str) -> dict[str, Any]:
    """The answer to `up`, `end`, `cards` or `table`.

    Args:
        address: as `ray.init` takes it; '' is the cluster of this machine.

    Raises:
        ClusterSilent: it does not answer, or says why it cannot.
        NoSuchTarget: nothing of ours runs in it.
    """
    where = address or "this machine"
    _require_listener(address)
    command = [sys.executable, "-m", "distwatch.observer.cluster.ray_client", what, address]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WITHIN_S[what],
            env={**os.environ, "DISTWATCH": "0"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterSilent(
            f"the Ray cluster of {where} does not answer within {_WITHIN_S[what]:.0f} s",
            advice="The observers of its nodes work without it: `distwatch attach PID` on a node.",
        ) from error
    answer = _answer(done.stdout)
    if answer is None or "error" in answer:
        said = answer["error"] if answer else _last_line(done.stderr) or f"code {done.returncode}"
        raise ClusterSilent(
            f"the Ray cluster of {where} cannot be asked: {redact_text(said)}",
            advice="Run it on a node of the cluster, or give its address; `ray status` tells more.",
        )
    if answer.get("absent"):
        raise NoSuchTarget(
            f"no observers of distwatch are in the Ray cluster of {where}",
            advice="`distwatch up --ray` places them.",
        )
    return answer


def _require_listener(address: str) -> None:
    """Ray itself waits for minutes where nobody listens; raises ClusterSilent."""
    try:
        place = parse_place(address.removeprefix(SCHEME))
    except LinkMisconfigured:
        return  # `auto`, or what Ray alone understands
    try:
        socket.create_connection((place.host, place.port), CONNECT_WITHIN_S).close()
    except OSError as error:
        raise ClusterSilent(
            f"no Ray cluster answers at {place}: {error.strerror or error}",
            advice="`ray status` on a node of it tells its address; without one that of this machine is meant.",
        ) from error


def _answer(output: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:400] if lines else ""
