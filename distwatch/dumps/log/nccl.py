"""NCCL's own lines: who is who, and which network operation failed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from distwatch.dumps.log.facts import Fact, LinkFailed, LostPeer, Named, Who, WorldSized
from distwatch.dumps.log.lines import Line

_HEAD = re.compile(r"(?P<host>[\w.-]+):(?P<pid>\d{1,10}):\d{1,10} \[\d{1,3}\] ")
_INIT = re.compile(
    r"comm 0x[0-9a-f]+ rank (?P<rank>\d{1,6}) n[Rr]anks (?P<size>\d{1,6})(?:.*?busId (?P<bus>[0-9a-f]+))?"
)
_COMPLETION = re.compile(
    r"NET/IB ?: ?Got completion from peer (?P<peer>[^\s<]+)\S* with "
    r"(?:error |status=)(?:\w+\()?(?P<status>\d{1,3})\)?,? .*?vendor[ _]err[ =](?P<vendor>\d{1,4})"
)
_HCA = re.compile(r" hca (\w+)")
_EVENT = re.compile(
    r"NET/IB ?: ?(?P<port>[\w]+(?::\d+)?)? ?:? ?Got (?:non-fatal )?async (?:fatal )?event[^:]*: (?P<what>.*)"
)
_FLUSHED = 5
"""What a broken connection had still to send: a consequence of the first error."""


def nccl_said(line: Line, time_ns: int) -> Iterator[Fact]:
    """The facts of one line that NCCL wrote; its `[0]` is a device, not a rank."""
    text = line.text
    head = _HEAD.search(text)
    who = line.who
    if head is not None:
        labels = (f"pid:{head['pid']}@{head['host']}", f"pid:{head['pid']}")
        who = msgspec.structs.replace(who, labels=(*who.labels, *labels))
        yield Named(who=who, time_ns=time_ns)
    if init := _INIT.search(text):
        yield WorldSized(who=who, time_ns=time_ns, size=int(init["size"]))
        rank = int(init["rank"])
        bus = (f"bus:{init['bus']}",) if init["bus"] else ()
        yield CommJoined(
            who=msgspec.structs.replace(who, labels=(*who.labels, *bus)),
            time_ns=time_ns,
            size=int(init["size"]),
            rank=rank,
        )
    yield from _network_said(text, who, time_ns)


class CommJoined(Fact, frozen=True, kw_only=True):
    """A process has a rank in a communicator: the global one where no communicator is larger."""

    size: int
    rank: int


def _network_said(text: str, who: Who, time_ns: int) -> Iterator[Fact]:
    if (found := _COMPLETION.search(text)) and int(found["status"]) != _FLUSHED:
        hca = _HCA.search(text)
        yield LinkFailed(
            who=who,
            time_ns=time_ns,
            device=hca[1] if hca else "",
            text=text[found.start() :].strip()[:300],
            decides=False,
        )
    if event := _EVENT.search(text):
        what = event["what"].strip()
        is_port = "port" in what or "fatal" in event[0]
        yield LinkFailed(
            who=who,
            time_ns=time_ns,
            device=event["port"] or "",
            text=text[event.start() :].strip()[:300],
            decides=is_port,
        )
    if "closed by remote peer" in text or "reset by remote peer" in text:
        yield LostPeer(who=who, time_ns=time_ns)
