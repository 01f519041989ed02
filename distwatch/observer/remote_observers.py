"""What an observer asks of the observers of other hosts."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Others(Protocol):
    """The observers of other hosts, where this one is the root."""

    def holds_on(self) -> bool: ...
    def ask_looks(self, why: str, *, ask: bool = False) -> list[asyncio.Future[None]]: ...
