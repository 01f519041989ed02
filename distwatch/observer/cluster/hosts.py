"""`distwatch up --hosts`: this host's observer becomes the run's root, other hosts' observers its leaves.

It starts a keeper (`host_keeper`) on each host, on the others through the user's shell command. The
keeper gets the token on stdin, so it is in no command line.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys

import msgspec

from distwatch.errors import NoSuchTarget, UsageError
from distwatch.observer.cluster.root_registry import Card
from distwatch.observer.journals.reading import load_state
from distwatch.observer.link.root_address import (
    LinkMisconfigured,
    RootAddress,
    address_here,
    parse_place,
)
from distwatch.observer.lock import lock_holder
from distwatch.redaction import redact_text
from distwatch.runfolder import RunFolder, host_name, name_of
from distwatch.state.addresses import is_loopback
from distwatch.visible_text import shorten

ANSWERS_WITHIN_S = 60.0
_NO_ADDRESS = ("0.0.0.0", "::")
_KEEPER = "distwatch.observer.cluster.host_keeper"


class Task(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A keeper's task, on stdin: its run, and either to make the root or the root's card."""

    run: str
    folders: str
    listen: str = ""
    card: Card | None = None


class HostJoined(msgspec.Struct, kw_only=True):
    """A keeper's answer.

    Attributes:
        host: the user's name for it.
        called: its own name for itself.
        told: what its observer is now, or what it waits for.
        failed: why there is no keeper; '' if there is one.
        card: the root's card, from the root's host.
    """

    host: str = ""
    called: str = ""
    pid: int = 0
    told: str = ""
    failed: str = ""
    card: Card | None = None


def join_hosts(folder: RunFolder, hosts: list[str], shell: str, address: str) -> list[HostJoined]:
    """Links the observers of the run on this and other hosts; one answer for each host, this one first.

    Args:
        hosts: names that replace `{host}` in `shell`.
        address: where this host listens, `IP` or `IP:PORT`; '' is the run's MASTER_ADDR.

    Raises:
        UsageError: the address or the shell command is not valid.
        NoSuchTarget: the run does not live here.
    """
    if "{host}" not in shell:
        raise UsageError(
            f"--shell must contain `{{host}}`: {shell!r}",
            advice="For instance 'ssh {host}', or 'kubectl exec -i {host} --'.",
        )
    if lock_holder(folder) is None:
        raise NoSuchTarget(
            f"{folder.run_id} has no observer on this host",
            advice="Run this on a host where the run lives; `distwatch ps` lists the runs.",
        )
    return asyncio.run(_join(folder, hosts, shell, address))


async def _join(folder: RunFolder, hosts: list[str], shell: str, address: str) -> list[HostJoined]:
    run = name_of(folder.run_id)
    listen = await _listening(folder, address)
    keeper, folders = [sys.executable, "-m", _KEEPER], os.path.dirname(folder.path)
    here = await _start(
        host_name(),
        ["env", f"DISTWATCH_DIR={folders}", *keeper],
        Task(run=run, folders=folders, listen=str(listen)),
    )
    if here.failed or here.card is None:
        why = f"{here.host} is not the root"
        return [here, *(HostJoined(host=host, failed=why) for host in hosts)]
    task = Task(run=run, folders=folders, card=here.card)
    there = []
    for host in hosts:
        command = [part.replace("{host}", host) for part in shlex.split(shell)]
        there.append(_start(host, [*command, *keeper], task))
    return [here, *await asyncio.gather(*there)]


async def _listening(folder: RunFolder, address: str) -> RootAddress:
    """The one address on which the root listens and the others connect; never all addresses."""
    if address:
        try:
            has_port = address.count(":") == 1 or "]:" in address
            place = parse_place(address if has_port else f"{address}:0")
        except LinkMisconfigured as error:
            raise UsageError(str(error), advice="Use --address IP or IP:PORT.") from error
        if place.host in _NO_ADDRESS:
            raise UsageError(
                f"{place.host} is not the address of one host", advice="Use --address IP[:PORT]."
            )
        return place
    processes = load_state(folder).processes.values()
    for named in sorted({p.identity.master_addr for p in processes if p.identity.master_addr}):
        try:
            found = await address_here(RootAddress(named, 0))
        except OSError:
            continue
        # Many systems resolve their own name to loopback, where no other host can connect.
        if found is not None and found not in _NO_ADDRESS and not is_loopback(found):
            return RootAddress(found, 0)
    raise UsageError(
        f"no MASTER_ADDR of {folder.run_id} is an address of this host that others can reach",
        advice="Give the address at which other hosts reach this one with --address.",
    )


async def _start(host: str, command: list[str], task: Task) -> HostJoined:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return HostJoined(host=host, failed=f"{command[0]}: {error.strerror or error}")
    try:
        said, wrong = await asyncio.wait_for(
            process.communicate(msgspec.json.encode(task)), ANSWERS_WITHIN_S
        )
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        return HostJoined(host=host, failed=f"no answer within {ANSWERS_WITHIN_S:.0f} s")
    try:
        joined = msgspec.json.decode(said.strip().rpartition(b"\n")[2], type=HostJoined)
    except (msgspec.DecodeError, UnicodeDecodeError):
        last = wrong.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return HostJoined(
            host=host, failed=shorten(redact_text(last), 300) or f"ended with {process.returncode}"
        )
    joined.host = host
    return joined
