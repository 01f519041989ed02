"""What an observer asks of those of other hosts."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Others(Protocol):
    """Other hosts' observers, where this one is the root of several."""

    def holds_on(self) -> bool: ...
    def ask_looks(self, why: str, *, ask: bool = False) -> list[asyncio.Future[None]]: ...
