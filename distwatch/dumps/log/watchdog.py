"""What torch's NCCL watchdog, its heartbeat monitor and its desync report write.

The words changed from release to release; line numbers and the order of the parts say nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import msgspec

from distwatch.dumps.log.facts import (
    DEFAULT,
    FILE_LABELS,
    Desynced,
    Fact,
    GilHeld,
    Group,
    Progressed,
    StuckIn,
    Who,
)
from distwatch.dumps.log.lines import Line

_WORK = re.compile(
    r"WorkNCCL\((?:SeqNum=(?P<seq>\d{1,18}), )?OpType=(?P<op>\w+)(?:, NumelIn=(?P<numel_in>\d{1,18}))?"
    r"(?:, NumelOut=(?P<numel_out>\d{1,18}))?(?:, Timeout\(ms\)=(?P<timeout>\d{1,15}))?\)"
    r"(?: ran for (?P<ran>\d{1,15}) milliseconds)?"
)
_GROUP = re.compile(
    r"\[PG (?:ID )?(?P<number>\d+)(?: PG GUID (?P<name>[^\s(\]]+))? ?(?:\((?P<desc>[^)\]]*)\))? "
    r"Rank (?P<rank>\d{1,6})\]"
)
_BARE_RANK = re.compile(r"\[Rank (\d{1,6})\]")
_STATUS = re.compile(
    r"(?i)last enqueued (?:nccl )?work: (-?\d{1,18}), last completed (?:nccl )?work: (-?\d{1,18})"
)
_AT_WORK = re.compile(r"(?:Timeout at NCCL work|watchdog at work(?: sequence id)?): (\d{1,18})")
_STUCK = re.compile(r"watchdog got stuck for (\d{1,9}) seconds")
_LONGEST_MS = 10**10
"""Four months: more is not a time that a collective took."""
_NO_GIL = "Could not acquire GIL"
_REPEATED = re.compile(r"\[repeated \d+x across cluster\]")
_ABSENT = re.compile(r"\[([\d, ]+)\] finished collective #(\d{1,18}), but didn't join")
_NEVER = re.compile(r"ranks \[([\d, ]+)\] are the lagging ranks")
_FINGERPRINT = re.compile(
    r"Rank (?P<rank>\d{1,6}) is running (?:inconsistent )?collective: CollectiveFingerPrint\("
    r"SequenceNumber=(?P<seq>\d{1,18}), OpType=(?P<op>\w+)(?:, TensorShape=\[(?P<shape>[\d, ]*)\])?"
)
_STARTED = re.compile(r"\[([\d, ]+)\] started \w+")


def said_by_watchdog(line: Line, time_ns: int) -> Iterator[Fact]:
    """The facts of one line, where torch's NCCL backend wrote it."""
    text, who = line.text, line.who
    group, group_rank = _group_of(text)
    if who.global_rank is None and all(label.startswith(FILE_LABELS) for label in who.labels):
        # Before torch 2.2 this is all that says a rank; it is the global one in the default group.
        bare = group_rank if group_rank is not None else _bare_rank(text)
        if bare is not None and (group is None or group.is_default):
            who = msgspec.structs.replace(who, global_rank=bare)
    yield from _timeouts(text, who, time_ns, group, group_rank)
    if status := _STATUS.search(text):
        yield Progressed(
            who=who,
            time_ns=time_ns,
            group=group or DEFAULT,
            group_rank=group_rank,
            enqueued=int(status[1]),
            completed=int(status[2]),
        )
    if stuck := _STUCK.search(text):
        yield GilHeld(who=who, time_ns=time_ns, stuck_s=float(stuck[1]))
    if _NO_GIL in text:
        yield GilHeld(who=who, time_ns=time_ns)


def _timeouts(
    text: str, who: Who, time_ns: int, group: Group | None, group_rank: int | None
) -> Iterator[Fact]:
    at = _AT_WORK.search(text)
    if "raised the following async exception" in text:
        return
    for work in _WORK.finditer(text):
        seq = work["seq"] or (at and at[1])
        if seq is None:
            continue
        yield StuckIn(
            who=who,
            time_ns=time_ns,
            group=group,
            group_rank=group_rank,
            seq=int(seq),
            op=work["op"].lower(),
            numel_in=_number(work["numel_in"]),
            numel_out=_number(work["numel_out"]),
            timeout_ms=_number(work["timeout"]),
            ran_ms=min(int(work["ran"] or work["timeout"] or 0), _LONGEST_MS),
            repeated=bool(_REPEATED.search(text)),
        )
        return  # the line says it again in its second half


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _group_of(text: str) -> tuple[Group | None, int | None]:
    found = _GROUP.search(text)
    if found is None:
        return None, None
    name = found["name"] or found["number"]
    desc = found["desc"] or ("default_pg" if name == "0" else "")
    return Group(name=name, desc=desc), int(found["rank"])


def _bare_rank(text: str) -> int | None:
    found = _BARE_RANK.search(text)
    return int(found[1]) if found else None


def mismatch_said(line: Line, time_ns: int) -> Iterator[Fact]:
    """What TORCH_DISTRIBUTED_DEBUG=DETAIL found: two ranks' calls under one number."""
    for own, found in zip((True, False), _FINGERPRINT.finditer(line.text), strict=False):
        named = Who(global_rank=int(found["rank"]), attempt=line.who.attempt)
        speaker = line.who.global_rank
        if own and speaker is not None:
            named = line.who
            if speaker != int(found["rank"]):
                return  # ranks of a smaller group, and nothing says which
        sizes = [int(size) for size in re.findall(r"\d{1,18}", found["shape"] or "")]
        yield StuckIn(
            who=named,
            time_ns=time_ns,
            group=DEFAULT,
            seq=int(found["seq"]),
            op=found["op"].lower(),
            numel_in=math.prod(sizes) if sizes else None,
        )


def desync_said(line: Line, time_ns: int) -> Iterable[Fact]:
    """A line of the report that TORCH_NCCL_DESYNC_DEBUG writes; its numbers are not the watchdog's."""
    if never := _NEVER.search(line.text):
        yield Desynced(who=line.who, time_ns=time_ns, absent=_ranks(never[1]))
    if found := _ABSENT.search(line.text):
        seq = int(found[2]) + 1
        yield Desynced(who=line.who, time_ns=time_ns, absent=_ranks(found[1]), seq=seq)
    if started := _STARTED.search(line.text):
        yield Desynced(who=line.who, time_ns=time_ns, absent=(), joined=_ranks(started[1]))


def _ranks(text: str) -> tuple[int, ...]:
    return tuple(int(one) for one in re.findall(r"\d{1,6}", text))
