"""collective.shape_mismatch of a rank that the library ended for the size of what it received."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.checks.collectives.entries import calls_differ
from distwatch.diagnosis.checks.collectives.splits import unfit_splits
from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.deaths import ending_signal
from distwatch.diagnosis.facts.operations import P2P, operation_name
from distwatch.diagnosis.facts.rank_status import short_site
from distwatch.diagnosis.facts.sequences import called_natively_since
from distwatch.diagnosis.facts.signals import exit_text, first_line
from distwatch.state.events import Operation
from distwatch.state.finding import Evidence, Finding
from distwatch.state.model import Group, Process

_SIZES = re.compile(
    r"(?i)preamble\.length\s*<=?\s*\S*nbytes\S*\s*(\d+) vs (\d+)|(?:nbytes|length|size).{0,60}?(\d+) vs (\d+)"
)
_OF_LIBRARY = re.compile(r"(?i)gloo|c10d|nccl|EnforceNotMet|enforce fail")
_ABORTED = 6
_AT_ONCE_NS = 5_000_000_000
_UNCOMPARED = ("all_to_all", "all_to_all_single")
"""Their sizes may differ between ranks, and of calls from C++ the lists that must fit are not recorded."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A rank that the library ended in a call."""

    global_rank: int
    process: Process
    call: Operation
    """The last that it made from Python."""
    reached: int = 0
    """The number of its last call, where C++ made that one; 0: it is `call`."""
    group: Group
    said: str
    sent: int | None = None
    """Of a recv: the elements of the send that it matches, where those are not as many."""

    @property
    def sizes(self) -> str:
        """What it received and expected, as the library or the two calls say it."""
        if self.sent is not None:
            return f"received {self.sent} elements where it expected {self.call.numel}"
        told = _SIZES.search(self.said)
        numbers = [number for number in told.groups() if number] if told else []
        return f"received {numbers[0]} bytes where it expected {numbers[1]}" if numbers else ""


class LibraryAborts:
    """Neither side is known to be wrong: of two both are named, of more nobody."""

    def find(self, case: Case) -> Iterable[Finding]:
        ended = [one for rank in case.job.ranks if (one := _ended(case, rank)) is not None]
        by_group: dict[str, list[Ended]] = {}
        for one in ended:
            by_group.setdefault(one.group.pg_name, []).append(one)
        for pg_name, ends in by_group.items():
            view = next((v for v in case.groups if v.pg_name == pg_name), None)
            if view is None or calls_differ(case, view) or unfit_splits(case, view):
                continue  # both calls are known: they are compared
            yield self._finding(case, ends)

    def _finding(self, case: Case, ends: list[Ended]) -> Finding:
        first = next((one for one in ends if one.sizes), ends[0])
        group = first.group
        sides = _sides(case, first)
        received = f" {first.sizes}" if first.sizes else " received another size than it expected"
        return Finding(
            code="collective.shape_mismatch",
            culprit_ranks=sides if len(sides) == 2 else (),
            waiting_ranks=tuple(r for r in group.members if len(sides) != 2 or r not in sides),
            pg_name=group.pg_name,
            pg_desc=group.pg_desc or None,
            summary=f"rank {first.global_rank}{received} in {_what(case, first)}, and the library ended it",
            evidence=tuple(e for one in ends[:4] for e in _evidence(case, one)),
            confidence=0.8 if first.sizes else 0.7,
        )


def _what(case: Case, one: Ended) -> str:
    call, title = one.call, one.group.pg_desc or one.group.pg_name
    if one.reached:
        return (
            f"a collective of {title} that C++ called (DDP, FSDP); the last known is #{one.reached}"
        )
    op = operation_name(call.op)
    called = case.job.site_of(one.global_rank, call)
    site = f", at {short_site(called.file, called.line, called.function)}" if called else ""
    return f"{op} #{call.p2p_seq if op in P2P else call.seq} of {title}{site}"


def _ended(case: Case, rank: int) -> Ended | None:
    process = case.job.ranks[rank]
    call = process.outside.operations[-1] if process.outside.operations else None
    group = process.groups.get(call.pg_name) if call is not None else None
    if call is None or group is None:
        return None
    reached = _reached(process, call) if call.seq >= 0 else 0
    error = process.exception
    said = error.message if error is not None else process.outside.last_output or ""
    by_word = bool(_OF_LIBRARY.search(said) and _SIZES.search(said))
    aborted = error is None and ending_signal(process) == _ABORTED
    sent = _sent(case, rank, call, group) if aborted else None
    if not by_word and not (aborted and (sent is not None or _is_of_library(process, call, said))):
        return None
    return Ended(
        global_rank=rank, process=process, call=call, reached=reached, group=group, said=said, sent=sent
    )  # fmt: skip


def _reached(process: Process, call: Operation) -> int:
    """The last known number, where C++ has called since: by the numbers, or since that call is over."""
    if newest := called_natively_since(process, call.pg_name, call.seq):
        return newest
    pulse = process.outside.pulse
    seen = pulse.groups if pulse is not None else ()
    is_over = any(p.pg_name == call.pg_name and p.completed >= call.seq for p in seen)
    return call.seq if is_over else 0


def _is_of_library(process: Process, call: Operation, said: str) -> bool:
    """By its last words; else since it was aborted in a call that the library aborts for unequal sizes."""
    if _OF_LIBRARY.search(said):
        return True
    at_once = (process.ended_ns or 0) - call.entered_ns < _AT_ONCE_NS
    return not said and at_once and operation_name(call.op) in _UNCOMPARED


def _sent(case: Case, rank: int, call: Operation, group: Group) -> int | None:
    """The elements of the send that its recv matches, where they are not as many as it expects."""
    if call.op != "recv" or not 0 <= call.peer < len(group.members) or rank not in group.members:
        return None
    sender = case.job.ranks.get(group.members[call.peer])
    mine = group.members.index(rank)
    for sent in sender.outside.operations if sender else ():
        same = (sent.op, sent.pg_name, sent.peer) == ("send", call.pg_name, mine)
        if same and (sent.tag, sent.p2p_seq) == (call.tag, call.p2p_seq):
            return sent.numel if sent.numel != call.numel else None
    return None


def _sides(case: Case, one: Ended) -> tuple[int, ...]:
    """Who took part in that call: two ranks for a send and recv, else all members."""
    members = one.group.members
    if operation_name(one.call.op) in P2P and 0 <= one.call.peer < len(members):
        return tuple(sorted({one.global_rank, members[one.call.peer]}))
    return members


def _evidence(case: Case, one: Ended) -> Iterable[Evidence]:
    said = first_line(one.said, 300) or exit_text(one.process.outside.exit)
    yield Evidence("exit", f"rank {one.global_rank}: {said}", one.global_rank)
    for rank in _sides(case, one)[:4]:
        operations = case.job.ranks[rank].outside.operations if rank in case.job.ranks else ()
        if operations:
            last = operations[-1]
            size = f" of {last.numel} elements" if last.numel >= 0 else ""
            at = case.at(case.job.site_of(rank, last), ", at")
            since = called_natively_since(case.job.ranks[rank], last.pg_name, last.seq)
            later = (
                f"; C++ (DDP, FSDP) has called up to #{since} since"
                if since and last.seq >= 0
                else ""
            )
            text = (
                f"rank {rank}'s last call from Python: {operation_name(last.op)}{size}{at}{later}"
            )
            yield Evidence("operations", text, rank)
