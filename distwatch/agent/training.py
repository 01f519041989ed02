"""`distwatch.step`: the training step, for verdicts and progress."""

from __future__ import annotations

from distwatch.agent import core
from distwatch.agent.guard import guard


def step(n: int) -> None:
    """Tells distwatch that this process is at training step `n`. Call it once a step.

    Nothing happens where distwatch is off. The steps of HF Trainer, Lightning, and torch's optimizers (plain
    loops, accelerate) are seen without it; what is told here wins. Costs about a microsecond, and never raises.
    """
    agent = core.current()
    if agent is not None:
        guard("distwatch.step", _tell, agent, n)


def _tell(agent: core.Agent, n: int) -> None:
    agent.training.tell(int(n))
