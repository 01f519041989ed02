"""What the control store of a Ray cluster says about a job.

A separate process (`ray_look.py`) reads its tables, in the cluster's own Python where this user owns
it: nothing that a sick Ray does can end or block the caller.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

import msgspec

from distwatch.errors import DistwatchError
from distwatch.probes.raylets import Raylet
from distwatch.redaction import redact_text
from distwatch.runfolder import host_name
from distwatch.state.ray_events import RayActorSeen, RayGroupSeen, RayJobSeen, RayNodeSeen
from distwatch.visible_text import shorten

WITHIN_S = 10.0
ROWS_MOST = 20_000
DOCUMENT_MOST = 64 * 1024 * 1024
_REASON_MOST = 300
NEEDS_TOKEN = (
    "it needs the cluster's token, as RAY_AUTH_TOKEN or in the file that RAY_AUTH_TOKEN_PATH names"
)
_SCRIPT = Path(__file__).with_name("ray_look.py")


class ClusterUnreadable(DistwatchError):
    """A cluster's tables could not be read; its text says why."""


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a cluster's control store."""

    actors: tuple[RayActorSeen, ...] = ()
    nodes: tuple[RayNodeSeen, ...] = ()
    groups: tuple[RayGroupSeen, ...] = ()
    jobs: tuple[RayJobSeen, ...] = ()
    actors_total: int = 0
    """The total, where there were too many for `actors`."""
    ray: str = ""


def read_tables(
    raylets: list[Raylet],
    *,
    jobs: tuple[str, ...] = (),
    driver: int = 0,
    name: str = "",
    within_s: float = WITHIN_S,
) -> Tables:
    """Asks a cluster's control store; blocks for `within_s` at most.

    Args:
        raylets: the raylets of one cluster on this machine.
        jobs: only the actors and groups of these jobs.
        driver: the same for the job whose driver has this pid on this machine.
        name: only actors of that name.

    Raises:
        ClusterUnreadable: it does not answer, rejects the request, or has no usable Ray.
    """
    raylet = next((one for one in raylets if one.python), raylets[0])
    query = {
        "address": raylet.address,
        "host": host_name(),
        "nodes": [one.node_id for one in raylets],
        "jobs": list(jobs),
        "driver": driver,
        "name": name,
        "most": ROWS_MOST,
        "within_s": within_s,
    }
    command = [raylet.python or sys.executable, "-", json.dumps(query)]
    with tempfile.TemporaryFile() as talk, open(_SCRIPT, "rb") as script:
        environ = {**_inherited(), **raylet.environ}
        try:
            child = subprocess.Popen(
                command, stdin=script, stdout=subprocess.PIPE, stderr=talk,
                cwd="/", env=environ, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ClusterUnreadable(f"{command[0]} cannot be started: {error.strerror}") from error
        document, in_time = _output_of(child, within_s)
        if child.returncode != 0 or not in_time:
            raise ClusterUnreadable(_why(raylet.address, talk, in_time, within_s))
    try:
        return _ours(msgspec.json.decode(document, type=Tables), raylets)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClusterUnreadable(
            f"cannot understand the content of Ray's tables: {error}"
        ) from error


def _output_of(child: subprocess.Popen[bytes], within_s: float) -> tuple[bytes, bool]:
    """What it prints, and whether it ended in time; it has ended in any case when this returns."""
    late = threading.Event()

    def end_it() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(within_s, end_it)
    timer.daemon = True
    timer.start()
    try:
        assert child.stdout is not None
        with child.stdout as pipe:
            document = pipe.read(DOCUMENT_MOST + 1)
        if len(document) > DOCUMENT_MOST:
            child.kill()
        child.wait()
    finally:
        timer.cancel()
    return document, not late.is_set()


def _why(address: str, talk: IO[bytes], in_time: bool, within_s: float) -> str:
    if not in_time:
        return f"Ray's control store at {address} does not answer within {within_s:.0f} s"
    talk.seek(0)
    said = talk.read(1 << 20).decode("utf-8", "replace")
    if lacks_token(said):
        return f"Ray's control store at {address} rejects the request: {NEEDS_TOKEN}"
    if "ModuleNotFoundError: No module named 'ray'" in said:
        return "this Python has no Ray, and the cluster's Python belongs to another user"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = shorten(redact_text(lines[-1]), _REASON_MOST) if lines else "it ended without a message"
    return f"Ray's control store at {address} could not be read: {last}"


def lacks_token(said: str) -> bool:
    """Whether what Ray says is that a token is missing or wrong."""
    return "InvalidAuthToken" in said or "Unauthenticated" in said


def _inherited() -> dict[str, str]:
    """This process's environment, without what would turn distwatch on or set up the asking process."""
    passed = {name: v for name, v in os.environ.items() if not name.startswith("DISTWATCH")}
    return {**passed, "DISTWATCH": "0", "RAY_BACKEND_LOG_LEVEL": "warning"}


def _ours(tables: Tables, raylets: list[Raylet]) -> Tables:
    """Without secrets, and with this machine's own name where Ray has another name for it."""
    here = {raylet.node_id for raylet in raylets}
    return msgspec.structs.replace(
        tables,
        nodes=tuple(
            msgspec.structs.replace(node, host_name=host_name()) if node.node_id in here else node
            for node in tables.nodes
        ),
        actors=tuple(
            msgspec.structs.replace(
                actor,
                name=redact_text(actor.name),
                death_text=redact_text(actor.death_text),
                ends=tuple(redact_text(end) for end in actor.ends),
            )
            for actor in tables.actors
        ),
    )
