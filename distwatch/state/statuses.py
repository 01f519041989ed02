"""A rank's status in one word and one letter, for every view."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from distwatch.state.steps import COLLECTIVE, KINDS, StepKind

Tone = Literal["bad", "waiting", "unknown", "starting", "busy", "good", "over"]
"""How urgent a status is, the most urgent first; it determines the colour."""


class Status(NamedTuple):
    """One status."""

    word: str
    letter: str
    tone: Tone
    starts: bool = False
    """Whether a rank in it has not begun its work yet."""
    blocks: bool = False
    """Whether others may be waiting for a rank in it."""
    ended: bool = False

    @property
    def urgency(self) -> tuple[int, bool]:
        """A sort key: the worst comes first."""
        return get_args(Tone).index(self.tone), not self.ended


def _status_of(kind: StepKind) -> Status:
    return Status(kind.status, kind.letter, kind.tone, kind.starts, blocks=kind is COLLECTIVE)


IDLE = "idle"
"""Waiting for requests, by design."""
UNOBSERVED = Status("unobserved", ".", "unknown", starts=True)
STATUSES = {
    status.word: status
    for status in (
        UNOBSERVED,
        Status("starting", "s", "starting", starts=True),
        *(_status_of(kind) for kind in KINDS if kind is not COLLECTIVE),
        Status("running", "r", "good"),
        Status(IDLE, "-", "good"),
        _status_of(COLLECTIVE),
        Status("stopped", "T", "bad", blocks=True),
        Status("frozen", "F", "bad", blocks=True),
        Status("exited", "x", "over", ended=True),
        Status("failed", "E", "bad", ended=True),
        Status("killed", "K", "bad", ended=True),
    )
}
LETTERS = {status.word: status.letter for status in STATUSES.values()}


def status_of(word: str) -> Status:
    """The status with this word; `unobserved` for a word of another version of distwatch."""
    return STATUSES.get(word, UNOBSERVED)
