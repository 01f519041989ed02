"""What the initializer needs from the library that forms the groups, and the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from distwatch.agent.initialization.environment import Launched
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Finding
from distwatch.state.group_creation import CreationProgress

Layout = dict[str, tuple[int, ...]]
"""This rank's groups: axis → members in the order of the axis."""


class Library(Protocol):
    """torch, or a library that forms groups in its place."""

    def unavailable(self, backend: str, launched: Launched) -> Finding | None:
        """Why the backend cannot work in this process; None where it can."""
        ...

    def host_store(self, host: str, port: int, world_size: int, timeout_s: float) -> None:
        """Listens at the endpoint; torch's own store in this process reuses it.

        Raises:
            RuntimeError: it cannot listen there.
        """
        ...

    def form(self, launched: Launched, plan: InitPlanned, within_s: float, prefix: str) -> None:
        """Forms the default process group.

        Args:
            prefix: for torch's keys, where the plain ones in this store are used up; else ''.
        """
        ...

    def round_trip(self, world_size: int, within_s: float) -> None:
        """Exchanges one number with every rank.

        Raises:
            RuntimeError: it did not return in time, or returned a wrong number.
        """
        ...

    def build(self, plan: InitPlanned) -> Layout:
        """Builds the framework's groups."""
        ...

    def creation_progress(self) -> CreationProgress | None:
        """How far this rank is with its groups; None where nothing sees its calls. From any thread."""
        ...


class Formed(msgspec.Struct, frozen=True, kw_only=True):
    """A world that has formed."""

    launched: Launched
    plan: InitPlanned
    layout: Layout
    without: tuple[int, ...] = ()
    """Ranks that do not use `distwatch.initialize`."""
    leave: Callable[[], None]
    """To be called when the world is closed or the process ends."""
