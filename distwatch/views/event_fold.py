"""Events without noise: what happened to several ranks alike is one line, and so are a process's hooks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import msgspec

from distwatch.state import events as ev
from distwatch.state.model import TimelineEntry
from distwatch.views.event_text import event_text

_Source = TypeVar("_Source")
ROUTINE = frozenset({"step progressed", "process sighted"})
"""Kinds that only count."""
_PID = re.compile(r"\bpid \d+")
HOOKS = "integration changed"


class Told(msgspec.Struct, Generic[_Source], frozen=True, kw_only=True, gc=False):
    """One event in words. `source` is what it was told from."""

    kind: str
    text: str
    global_rank: int | None
    process: str
    source: _Source


class Folded(msgspec.Struct, Generic[_Source], kw_only=True):
    """The same of several ranks, at the first of them."""

    kind: str
    text: str
    source: _Source
    global_ranks: list[int] = []


def named_texts(entries: Iterable[TimelineEntry]) -> Iterator[tuple[TimelineEntry, str]]:
    """Each event with its text, in which steps are called by their names."""
    steps: dict[tuple[str, int], str] = {}
    for entry in entries:
        event, text = entry.event, event_text(entry.event)
        if isinstance(event, ev.StepStarted):
            label = f" {event.label}" if event.label else ""
            steps[entry.process, event.step] = f"{event.name}{label}"
        elif isinstance(event, ev.StepEnded | ev.StepProgressed | ev.LoadPlanned | ev.ModelPlaced):
            name = steps.get((entry.process, event.step))
            text = text.replace(f"step {event.step}", name, 1) if name else text
        elif isinstance(event, ev.FindingRaised):
            text = f"says: {text}"  # it may be about another rank than the one in whose line it is
        yield entry, text


def fold(events: Iterable[Told[_Source]]) -> list[Folded[_Source]]:
    """The events in their order, folded; a rank to which the same happens again begins a new line."""
    found: list[Folded[_Source]] = []
    newest: dict[tuple[str, str], Folded[_Source]] = {}
    for one in _with_hooks_together([e for e in events if e.kind not in ROUTINE]):
        alike = _PID.sub("pid …", one.text)
        line = newest.get((one.kind, alike))
        if line is None or one.global_rank is None or one.global_rank in line.global_ranks:
            line = Folded(kind=one.kind, text=one.text, source=one.source)
            newest[one.kind, alike] = line
            found.append(line)
        elif line.text != one.text:
            line.text = alike
        if one.global_rank is not None:
            line.global_ranks.append(one.global_rank)
    return found


def _with_hooks_together(events: list[Told[_Source]]) -> Iterable[Told[_Source]]:
    """`13 integrations: armed torch, …; applied accelerate`: one line a process; failures stay apart."""
    hooks: dict[str, list[Told[_Source]]] = {}
    for one in events:
        if is_hook(one):
            hooks.setdefault(one.process, []).append(one)
    for one in events:
        if not is_hook(one):
            yield one
        elif of_process := hooks.pop(one.process, None):
            words: dict[str, list[str]] = {}
            for each in of_process:
                name, _, word = each.text.partition(":")[0].partition(" ")
                words.setdefault(word, []).append(name)
            told = "; ".join(
                f"{word}: {', '.join(sorted(set(names)))}" for word, names in words.items()
            )
            yield msgspec.structs.replace(one, kind="integrations", text=told)


def is_hook(one: Told[_Source]) -> bool:
    """Whether it is the status of an integration that has not failed."""
    return one.kind == HOOKS and "failed" not in one.text
