"""`distwatch up --hosts`: this host's observer becomes the run's root, other hosts' observers its leaves.

It starts a keeper (`host_keeper`) on each host, on the others through the user's shell command. The
keeper gets the token on stdin, so it is in no command line.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex

import msgspec

from distwatch.errors import NoSuchTarget, UsageError
from distwatch.observer.cluster.shells import Keeper, start_keeper
from distwatch.observer.cluster.tasks import HostJoined, Task
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.link.root_address import (
    LinkMisconfigured,
    RootAddress,
    address_here,
    parse_place,
)
from distwatch.observer.lock import lock_holder
from distwatch.runfolder import RunFolder, host_name, name_of
from distwatch.state.addresses import is_loopback
from distwatch.state.identity import Identity

MOST_HOSTS = 4096
AT_ONCE = 32
_RANGE = re.compile(r"(\d+)-(\d+)")
_NO_ADDRESS = ("0.0.0.0", "::")


def named_hosts(text: str) -> list[str]:
    """The hosts of `n1,n2` or of Slurm's and ClusterShell's notation: `node[01-03,05]`, sorted.

    Raises:
        UsageError: it is something else, or names too many.
    """
    # It takes 60 ms to import, and few commands need it.
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    # The library writes every name out before it can be asked how many there are.
    ends = [end for inside in re.findall(r"\[([^\]]*)", text) for end in _RANGE.findall(inside)]
    if any(len(last) > 12 or int(last) - int(first[:12]) > MOST_HOSTS for first, last in ends):
        raise UsageError(
            f"--hosts {text[:80]!r} names too many hosts", advice=f"Name 1 to {MOST_HOSTS}."
        )
    try:
        # Without groups, whose names may stand for commands in a configuration file.
        found = NodeSet("".join(text.split()), resolver=RESOLVER_NOGROUP)
    except NodeSetException as error:
        raise UsageError(
            f"--hosts {text!r}: {error}", advice="For instance node1,node2 or node[01-03,05]."
        ) from error
    if not 0 < len(found) <= MOST_HOSTS:
        raise UsageError(
            f"--hosts {text!r} names {len(found)} hosts", advice=f"Name 1 to {MOST_HOSTS}."
        )
    return list(found)


def join_hosts(
    folder: RunFolder, hosts: list[str], shell: str, address: str, job: Identity | None = None
) -> list[HostJoined]:
    """Links the observers of the run on this and other hosts; one answer for each host, this one first.

    Args:
        hosts: names that replace `{host}` in `shell`.
        address: where this host listens, `IP` or `IP:PORT`; '' is the run's MASTER_ADDR.
        job: a job without distwatch, whose ranks are looked at from outside on each host.

    Raises:
        UsageError: the address or the shell command is not valid.
        NoSuchTarget: the run does not live here.
    """
    keepers = asyncio.run(start_keepers(folder, hosts, shell, address, job, while_attached=False))
    return [keeper.joined for keeper in keepers]


async def start_keepers(
    folder: RunFolder,
    hosts: list[str],
    shell: str,
    address: str,
    job: Identity | None,
    *,
    while_attached: bool,
) -> list[Keeper]:
    """As `join_hosts`; the keepers stay until they are ended, if `while_attached`."""
    words = _commands(shell, hosts)
    if job is None and lock_holder(folder) is None:
        raise NoSuchTarget(
            f"{folder.run_id} has no observer on this host",
            advice="It has ended, or it lives on other hosts: run this there; `distwatch ps` lists the runs.",
        )
    task = Task(
        run=name_of(folder.run_id),
        folders=os.path.dirname(folder.path),
        listen=str(await _listening(folder, address, job)),
        job=job,
        while_attached=while_attached,
    )
    here = await start_keeper(host_name(), [], task)
    if here.joined.failed or here.joined.card is None:
        failed = here.joined.failed or "no rank of the job was found here"
        here.joined.failed = failed
        why = f"{here.joined.host} is not the root"
        return [here, *(Keeper(HostJoined(host=host, failed=why)) for host in hosts)]
    task = msgspec.structs.replace(task, listen="", card=here.joined.card)
    gate = asyncio.Semaphore(AT_ONCE)

    async def start(host: str, command: list[str]) -> Keeper:
        async with gate:
            return await start_keeper(host, command, task)

    return [here, *await asyncio.gather(*map(start, hosts, words))]


def _commands(shell: str, hosts: list[str]) -> list[list[str]]:
    """What runs a command on each host; raises UsageError where the host's name has no place in it."""
    if "{host}" not in shell:
        raise UsageError(
            f"--shell must contain `{{host}}`: {shell!r}",
            advice="For instance 'ssh {host}', or 'kubectl exec -i {host} --'.",
        )
    return [[part.replace("{host}", host) for part in shlex.split(shell)] for host in hosts]


async def _listening(folder: RunFolder, address: str, job: Identity | None) -> RootAddress:
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
    identities = (
        [p.identity for p in load_state(folder).processes.values()] if job is None else [job]
    )
    for named in sorted({one.master_addr for one in identities if one.master_addr}):
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
