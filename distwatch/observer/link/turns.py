"""Turns of very many leaves on one event loop."""

from __future__ import annotations

import asyncio
import time

SLICE_S = 0.02
"""How long messages are taken before the loop does what else is due."""


class Turns:
    """Lets whoever asks begin a short piece of work, one after the other.

    asyncio runs everything that is ready before it looks at the clock and at its sockets. A thousand
    leaves that send at one moment would keep it from both for seconds: hosts that connect would be given
    up in the handshake, and those that are connected would hear nothing and connect anew.
    """

    def __init__(self) -> None:
        self._in_order = asyncio.Lock()
        self._until = 0.0

    async def begin(self) -> None:
        """Returns when it is one's turn: what is then done at once is done undisturbed."""
        async with self._in_order:
            if time.monotonic() > self._until:
                await asyncio.sleep(0)
                self._until = time.monotonic() + SLICE_S
