"""The training step of this process, and how long its steps usually take."""

from __future__ import annotations

import time
import weakref
from collections import deque
from statistics import median
from typing import Any

from distwatch.state.events import TrainingStep

_LENGTHS = 32
_FROM = 3
"""So many steps tell what is usual: the first ones compile and warm up."""


class TrainingSteps:
    """What the script or a framework tells counts; else the steps of its first optimizer are counted.

    A step costs two assignments: the agent's thread writes the pulse. Any thread may call.
    """

    def __init__(self) -> None:
        self._step: int | None = None
        self._epoch: float | None = None
        self._began_ns = 0
        self._lengths: deque[float] = deque(maxlen=_LENGTHS)
        self._is_told = False
        self._optimizer: Any = None

    def tell(self, step: int, epoch: float | None = None) -> None:
        """Step number `step` begins, or has just ended: whoever calls, calls once a step."""
        if not self._is_told:
            # Counts of the optimizer until now are another numbering.
            self._is_told, self._step = True, None
            self._lengths.clear()
        self._epoch = epoch
        if step != self._step:
            self._move(step)

    def count(self, optimizer: object) -> None:
        """An optimizer has made a step; another one beside it is part of the same training step."""
        if self._is_told:
            return
        counted = self._optimizer() if self._optimizer is not None else None
        if counted is None:
            counted, self._optimizer = optimizer, weakref.ref(optimizer)
        if counted is optimizer:
            self._move((self._step or 0) + 1)

    def _move(self, step: int) -> None:
        now = time.monotonic_ns()
        if self._step is not None:
            self._lengths.append((now - self._began_ns) / 1e9)
        self._step, self._began_ns = step, now

    def seen(self) -> TrainingStep | None:
        """For the pulse; None before the first step."""
        step = self._step
        if step is None:
            return None
        lengths = list(self._lengths)
        return TrainingStep(
            step=step,
            began_ns=self._began_ns,
            usual_s=median(lengths) if len(lengths) >= _FROM else 0.0,
            epoch=self._epoch,
        )
