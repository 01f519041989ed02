"""A load under a deadline that ends it: where it waits in Python, in the main thread, it raises InitTimeout."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from distwatch.agent.core import Agent
from distwatch.agent.initialization.missing_ranks import JUDGED_WITHIN_S, ask_until, look_for
from distwatch.agent.initialization.supervision import Supervision
from distwatch.errors import InitTimeout, not_done
from distwatch.integrations.registry import running_agent
from distwatch.state.events import FindingRaised
from distwatch.state.finding import Finding
from distwatch.state.verdict import Verdict
from distwatch.visible_text import say


def supervise_load(
    call: str, deadline_s: float, phase: Callable[[], str], *, port: int | None, asked: bool
) -> Supervision:
    """The context manager around a load of this thread, whose deadline counts from its last progress.

    Args:
        call: what the user called, with the checkpoint.
        phase: the innermost phase under way.
        port: of the store in which ranks may wait for each other meanwhile.
        asked: whether the caller has named this deadline. Else DISTWATCH_ON_HANG=raise ends the load, and
            only once the observer calls it a hang: it sees what moves without a word to us.
    """
    agent = running_agent()
    late = _Late(agent, call, deadline_s, phase, asked, threading.get_ident())
    moved = (lambda: agent.moved_ns) if agent is not None else None
    return Supervision(
        deadline_s=deadline_s, port=port, late=late.failure, moved_ns=moved, interrupts=True
    )


class _Late:
    """What is said of a load whose deadline has passed. Called in the supervising thread."""

    def __init__(
        self,
        agent: Agent | None,
        call: str,
        deadline_s: float,
        phase: Callable[[], str],
        asked: bool,
        thread: int,
    ) -> None:
        self._agent = agent
        self._call = call
        self._deadline_s = deadline_s
        self._phase = phase
        self._asked = asked
        self._thread = thread

    def failure(self) -> InitTimeout | None:
        """The error; None where the load may still move."""
        phase, place = self._phase(), self._place()
        finding, is_observed = self._verdict()
        if finding is None and is_observed and not self._asked:
            return None
        what = f"{self._call}: {not_done(phase, self._deadline_s)}{place}"
        if finding is not None:
            what += f": {finding.summary}"
        say(what)
        missing = finding.culprit_ranks if finding is not None else ()
        places = look_for(missing, self._agent.folder if self._agent is not None else None)
        if finding is not None and self._agent is not None:
            self._agent.record(FindingRaised(finding=finding, step=phase))
        return InitTimeout(
            what,
            step=phase,
            deadline_s=self._deadline_s,
            arrived=finding.waiting_ranks if finding is not None else (),
            missing=missing,
            places={rank: where.text for rank, where in places.items()},
            finding=finding,
        )

    def _verdict(self) -> tuple[Finding | None, bool]:
        """What the observer says about this rank's wait, and whether there is one."""
        if self._agent is None:
            return None, False
        within_s = JUDGED_WITHIN_S if self._asked else 0.0
        verdict, is_there = ask_until(self._agent.folder, self._about_us, within_s)
        return self._about_us(verdict), is_there

    def _about_us(self, verdict: Verdict | None) -> Finding | None:
        found = verdict.findings if verdict is not None else ()
        return next((one for one in found if one.blocks and self._concerns(one)), None)

    def _concerns(self, finding: Finding) -> bool:
        rank = self._agent.started.identity.global_rank if self._agent is not None else None
        return rank is None or rank in (*finding.culprit_ranks, *finding.waiting_ranks)

    def _place(self) -> str:
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return ""
        code = frame.f_code
        return f", at {os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"
