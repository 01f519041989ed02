"""What the initializer asks of the library that forms the groups, and what then holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from distwatch.agent.initialization.environment import Launched
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Finding

Layout = dict[str, tuple[int, ...]]
"""This rank's groups: axis → members in the order of the axis."""


class Library(Protocol):
    """What the initializer needs of torch, or of whatever forms groups in its place."""

    def unavailable(self, backend: str, launched: Launched) -> Finding | None:
        """Why the backend cannot work in this process; None where it can."""
        ...

    def host_store(self, host: str, port: int, world_size: int, timeout_s: float) -> None:
        """Listens at the endpoint; torch's own store of this process reuses it.

        Raises:
            RuntimeError: it cannot.
        """
        ...

    def form(self, launched: Launched, plan: InitPlanned, within_s: float, prefix: str) -> None:
        """Forms the default process group, and returns when it holds.

        Args:
            prefix: of keys of its own, where torch's own ones in this store are used up; else ''.
        """
        ...

    def round_trip(self, world_size: int, within_s: float) -> None:
        """Exchanges one number with every rank.

        Raises:
            RuntimeError: it did not come back, or came back wrong.
        """
        ...

    def build(self, plan: InitPlanned) -> Layout:
        """Builds the framework's groups."""
        ...

    def undo(self) -> None:
        """Destroys what was built, the last first."""
        ...


class Formed(msgspec.Struct, frozen=True, kw_only=True):
    """What now holds."""

    launched: Launched
    plan: InitPlanned
    layout: Layout
    without: tuple[int, ...] = ()
    """Ranks that came without `distwatch.initialize`."""
    leave: Callable[[], None]
    """To be called when the world is closed, or the process ends."""
