"""Asks a Ray cluster's run actor, through a separate process and with a time limit."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import Any

import msgspec

from distwatch.errors import DistwatchError, NoSuchTarget
from distwatch.foreign_files import read_named
from distwatch.observer.cluster.root_registry import SCHEME
from distwatch.observer.link.root_address import (
    LinkMisconfigured,
    RootAddress,
    parse_place,
)
from distwatch.probes.ray_cluster import NEEDS_TOKEN, lacks_token
from distwatch.probes.raylets import clusters_here
from distwatch.redaction import redact_text
from distwatch.state.addresses import is_loopback

CONNECT_WITHIN_S = 5.0
_CLIENT_ADVICE = (
    "On a node of the cluster, ray://HOST:PORT is the cluster's address; elsewhere it is Ray Client's, "
    "by default port 10001 of the head node, and both sides need `ray[client]`."
)
_NODE_ADVICE = "Run this on a node of the cluster, or give its address; `ray status` shows more."
_WITHIN_S = {"up": 120.0, "end": 60.0, "cards": 60.0}


class ClusterSilent(DistwatchError):
    """The Ray cluster does not answer."""


def ask_cluster(what: str, address: str) -> dict[str, Any]:
    """The cluster's answer to `up`, `end` or `cards`.

    Args:
        address: `HOST:PORT` or `ray://HOST:PORT`, of a cluster with a node on this machine or of
            Ray Client; anything else that `ray.init` accepts; '' is the cluster of this machine.

    Raises:
        ClusterSilent: the cluster does not answer, or answers with an error.
        NoSuchTarget: no distwatch actors run in it.
    """
    where = address or "this machine"
    place = _place_of(address)
    if place is not None:
        _require_listener(place, "`ray status` on one of its nodes shows its address.")
    elif address in ("", "auto"):
        _require_default()
    given = _address_here(place) if place is not None else ""
    remote = place is not None and not given
    command = [sys.executable, "-m", "distwatch.observer.cluster.ray_client"]
    command += [what, given or address]
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
            f"the Ray cluster of {where} did not answer within {_WITHIN_S[what]:.0f} s",
            advice="The observers on its nodes work without it: run `distwatch attach PID` on a node.",
        ) from error
    answer = _answer(done.stdout)
    if answer is None or "error" in answer:
        advice = _CLIENT_ADVICE if remote else _NODE_ADVICE
        raise _refusal(where, answer, done, advice)
    if answer.get("absent"):
        raise NoSuchTarget(
            f"the Ray cluster of {where} has no distwatch observers",
            advice="`distwatch up --ray` places them.",
        )
    return answer


def _refusal(
    where: str,
    answer: dict[str, Any] | None,
    done: subprocess.CompletedProcess[bytes],
    advice: str,
) -> ClusterSilent:
    if lacks_token(done.stderr.decode("utf-8", "replace")):
        return ClusterSilent(
            f"the Ray cluster of {where} rejects the request: {NEEDS_TOKEN}",
            advice="Set RAY_AUTH_MODE=token here, too, as on the cluster's nodes.",
        )
    said = answer["error"] if answer else _last_line(done.stderr) or f"code {done.returncode}"
    what = redact_text(said).rstrip(".")
    return ClusterSilent(f"the Ray cluster of {where} cannot be asked: {what}", advice=advice)


def _place_of(address: str) -> RootAddress | None:
    """Host and port; None for `auto` and for addresses that only Ray understands."""
    try:
        return parse_place(address.removeprefix(SCHEME))
    except LinkMisconfigured:
        return None


def _address_here(place: RootAddress) -> str:
    """The cluster's address as its raylets on this machine know it; '' if none runs here.

    Ray can join a cluster through its control store only on a machine with one of its raylets.
    """
    for known in clusters_here():
        theirs = _place_of(known)
        if theirs is not None and theirs.port == place.port:
            named = _addresses(place.host)
            if named & _addresses(theirs.host) or any(map(is_loopback, named)):
                return known
    return ""


def _addresses(host: str) -> set[str]:
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return {str(address[0]) for *_, address in found}
    return set()


def _require_default() -> None:
    """Raises ClusterSilent if nobody listens where Ray would look for a cluster."""
    source, address = "RAY_ADDRESS", os.environ.get("RAY_ADDRESS", "")
    if not address:
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
        source = os.path.join(folder, "ray", "ray_current_cluster")
        with contextlib.suppress(OSError):
            address = read_named(source, 4096).decode("utf-8", "replace").strip()
    if (place := _place_of(address)) is not None:
        others = ", ".join(known for known in clusters_here() if known != address)
        _require_listener(
            place,
            f"{source} names it, of a cluster that has ended. "
            + (f"--address takes another: {others}." if others else "No other cluster runs here."),
        )


def _require_listener(place: RootAddress, advice: str) -> None:
    """Raises ClusterSilent if nobody listens there: Ray itself would wait for minutes."""
    try:
        socket.create_connection((place.host, place.port), CONNECT_WITHIN_S).close()
    except OSError as error:
        raise ClusterSilent(
            f"no Ray cluster answers at {place}: {error.strerror or error}",
            advice=advice,
        ) from error


def _answer(output: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(IndexError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(output.splitlines()[-1], type=dict[str, Any])
    return None


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:400] if lines else ""
