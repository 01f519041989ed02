"""Which nodes have joined torchrun's rendezvous, by the store that its agents meet at. It only reads.

torchrun's c10d backend keeps its state in one key, as a pickle. That is never loaded: its opcodes are read, and
only texts and numbers of them.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import pickletools
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import msgspec

from distwatch.probes.endpoint import resolve
from distwatch.state.addresses import split_endpoint
from distwatch.state.bounds import whole_number
from distwatch.state.events import RendezvousLooked
from distwatch.tcpstore import StoreClient, StoreUnreachable
from distwatch.visible_text import shorten

ANSWER_WITHIN_S = 2.0
_PORT = 29500
_STATE_LONGEST = 1 << 20
_NODES_LISTED = 64
_OPTIONS = "nnodes rdzv-backend rdzv-endpoint rdzv-id master-addr master-port".split()


class Rendezvous(msgspec.Struct, frozen=True, kw_only=True):
    """Where an agent of torchrun meets the others, as its command line and environment say."""

    backend: str
    host: str
    port: int
    run_id: str
    least: int
    """The number of nodes without which no worker is started."""

    @property
    def endpoint(self) -> str:
        return f"{self.host}:{self.port}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def rendezvous_of(argv: tuple[str, ...], environ: Mapping[str, str]) -> Rendezvous | None:
    """The rendezvous of a launcher; None where it is of one node, or its options are not torchrun's."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name in _OPTIONS:
        given = environ.get(f"PET_{name.replace('-', '_').upper()}", "")
        parser.add_argument(f"--{name}", f"--{name.replace('-', '_')}", default=given)
    try:
        said, _ = parser.parse_known_args(list(_own_options(argv)))
    except ValueError:
        return None
    least = whole_number(said.nnodes.partition(":")[0])
    if least is None or least < 2:
        return None
    place = split_endpoint(said.rdzv_endpoint) or (said.rdzv_endpoint, _PORT)
    if not place[0]:
        place = (said.master_addr or "127.0.0.1", whole_number(said.master_port) or _PORT)
    return Rendezvous(
        backend=said.rdzv_backend or "static",
        host=place[0],
        port=place[1],
        run_id=said.rdzv_id or "none",
        least=least,
    )


def _own_options(argv: tuple[str, ...]) -> Iterator[str]:
    """The launcher's own words: the script's have names of their own."""
    begun = False
    for word in argv[1:]:
        begun = begun or word.startswith("--")
        if begun and (word.endswith(".py") or word in ("-m", "--module", "--no-python")):
            return
        yield word


def look_at_rendezvous(process: str, host: str, meant: Rendezvous) -> RendezvousLooked:
    """One look. Blocks for some seconds at most.

    Args:
        process: the key of the launcher on `host`.
    """
    seen = RendezvousLooked(
        process=process,
        host=host,
        endpoint=meant.endpoint,
        backend=meant.backend,
        nodes_needed=meant.least,
    )
    if meant.backend not in ("static", "c10d"):
        return _untold(seen, f"rendezvous backend {meant.backend!r} is not read")
    resolved = resolve(meant.host, meant.port)
    if not resolved.addresses:
        return _untold(seen, resolved.why)
    try:
        with StoreClient.connect(
            resolved.addresses[0], meant.port, timeout_s=ANSWER_WITHIN_S
        ) as client:
            return _read(client, seen, meant)
    except (StoreUnreachable, OSError, ValueError) as error:
        return _untold(
            seen, f"the store at {meant.endpoint} was not read: {shorten(str(error), 200)}"
        )


def _read(client: StoreClient, seen: RendezvousLooked, meant: Rendezvous) -> RendezvousLooked:
    if meant.backend == "static":
        # Each agent is a client of the store; the keys that name them come only once all are there.
        return msgspec.structs.replace(seen, nodes_joined=client.count_clients())
    state = client.get(f"/torch.rendezvous.{meant.run_id}")
    if state is None:
        return msgspec.structs.replace(seen, nodes_joined=0)
    nodes = nodes_in(state)
    return msgspec.structs.replace(
        seen, nodes_joined=len(nodes), nodes=tuple(nodes[:_NODES_LISTED])
    )


def _untold(seen: RendezvousLooked, why: str) -> RendezvousLooked:
    return msgspec.structs.replace(seen, detail=why)


def nodes_in(state: bytes) -> list[str]:
    """The agents that a state of torchrun's rendezvous names: `node7 (pid 4711)`, each once.

    Raises:
        ValueError: it is something else.
    """
    try:
        raw = base64.b64decode(state[:_STATE_LONGEST], validate=True)
        values = list(_values(raw))
    except (binascii.Error, ValueError, IndexError, UnicodeError) as error:
        raise ValueError("the rendezvous' state is not what torchrun writes") from error
    found: dict[str, None] = {}
    for place, value in enumerate(values[:-3]):
        if value == "addr" and values[place + 2] == "pid":
            address, pid = values[place + 1], values[place + 3]
            if isinstance(address, str) and isinstance(pid, int):
                found.setdefault(f"{shorten(address, 100)} (pid {pid})")
    return list(found)


def _values(raw: bytes) -> Iterator[object]:
    """The texts and numbers of a pickle in their order, those by reference, too."""
    memo: list[Any] = []
    last: object = None
    for opcode, argument, _ in pickletools.genops(raw):
        if opcode.name == "MEMOIZE":
            memo.append(last)
            continue
        if opcode.name in ("BINGET", "LONG_BINGET"):
            last = memo[int(argument or 0)]
        elif "UNICODE" in opcode.name or "INT" in opcode.name or "LONG" in opcode.name:
            last = argument
        else:
            last = None
        if last is not None:
            yield last
