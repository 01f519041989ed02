"""What a process has moved lately: whoever moves something is slow, not stuck."""

from __future__ import annotations

import msgspec

from distwatch.state.bounds import Finite


class Moved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What some threads have read, written, received and filled lately."""

    at_ns: int = 0
    """When they last did; 0: not since they are watched for this."""
    read_bytes: int = 0
    written_bytes: int = 0
    received_bytes: int = 0
    """By the connections that the main thread waits on: `recv` does not count as a read."""
    touched_bytes: int = 0
    """Memory that they used for the first time: what computes makes results, and what polls does not."""
    busy_s: Finite = 0.0
    """For which they have run, or have waited for a core."""


class Flow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a process has moved lately: whoever moves something is slow, not stuck."""

    main: Moved = Moved()
    """Its main thread."""
    others: Moved = Moved()
    """Its other threads, without those of torch and distwatch."""
    cpu_s: Finite = 0.0
    """For which its main thread has run, or has waited for a core."""
    system_s: Finite = 0.0
    """CPU of its main thread inside system calls: who polls makes them, who computes does not."""
    at_ns: int = 0
    """When it was looked at; a crowded machine is looked at late."""
    asleep_since_ns: int = 0
    """Since when its main thread has not run at all, at one look after the other; 0: it has run since the last one."""
    over_s: Finite = 0.0
    """The seconds in which it read, wrote and used that."""
    repeats: str = ""
    """A line of all that it writes, to its log alone and over and over: then what it writes is no movement."""

    @property
    def moved_ns(self) -> int:
        """When any of its threads last moved something."""
        return max(self.main.at_ns, self.others.at_ns)
