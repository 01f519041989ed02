"""What a process has moved lately: whoever moves something is slow, not stuck."""

from __future__ import annotations

import msgspec

from distwatch.state.bounds import Finite


class Moved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What some threads have read and written lately."""

    at_ns: int = 0
    """When they last did; 0: not since they are watched for this."""
    read_bytes: int = 0
    written_bytes: int = 0


class Flow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a process has moved lately: whoever moves something is slow, not stuck."""

    main: Moved = Moved()
    """Its main thread."""
    others: Moved = Moved()
    """Its other threads, without those of torch and distwatch."""
    cpu_s: Finite = 0.0
    """Of its main thread."""
    over_s: Finite = 0.0
    """The seconds in which it read, wrote and used that."""

    @property
    def moved_ns(self) -> int:
        """When any of its threads last moved something."""
        return max(self.main.at_ns, self.others.at_ns)
