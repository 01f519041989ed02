"""Where a rank is, in one word and one letter, for every view."""

from __future__ import annotations

from typing import NamedTuple, get_args

from distwatch.state.steps import COLLECTIVE, KINDS, StepKind, Tone


class Status(NamedTuple):
    """One word for a rank."""

    word: str
    letter: str
    tone: Tone
    starts: bool = False
    """Whether the job has yet to begin its work."""
    blocks: bool = False
    """Whether others may wait for a rank that is in it."""
    ended: bool = False

    @property
    def urgency(self) -> tuple[int, bool]:
        """What is worst comes first."""
        return get_args(Tone).index(self.tone), not self.ended


def _status_of(kind: StepKind) -> Status:
    return Status(kind.status, kind.letter, kind.tone, kind.starts, blocks=kind is COLLECTIVE)


UNOBSERVED = Status("unobserved", ".", "unknown", starts=True)
STATUSES = {
    status.word: status
    for status in (
        UNOBSERVED,
        Status("starting", "s", "starting", starts=True),
        *(_status_of(kind) for kind in KINDS if kind is not COLLECTIVE),
        Status("running", "r", "good"),
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
    """The status of a word; one that says nothing where another version of distwatch wrote it."""
    return STATUSES.get(word, UNOBSERVED)
