"""The looks that the observers of other hosts were asked for, together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable


class LooksElsewhere:
    """Whether all hosts have answered: their answers are judged together, a thousand at once."""

    def __init__(self, on_answer: Callable[[bool], None]) -> None:
        """`on_answer` is called with each answer, and with whether it was the last."""
        self._asked: list[asyncio.Future[None]] = []
        self._on_answer = on_answer

    @property
    def pending(self) -> bool:
        return not all(answer.done() for answer in self._asked)

    def expect(self, answers: Iterable[asyncio.Future[None]]) -> None:
        """From now on, these are the looks that were asked for last."""
        self._asked = list(answers)
        for answer in self._asked:
            answer.add_done_callback(lambda _: self._on_answer(not self.pending))
