"""Which rank a label means, learned from all evidence together."""

from __future__ import annotations

import re
from collections.abc import Iterable

from distwatch.dumps.log.facts import FILE_LABELS, Fact, Stacked, Who
from distwatch.dumps.log.nccl import CommJoined
from distwatch.state.bounds import MOST_RANKS

_MASTER = re.compile(r"(.*)-master-0$")
_WORKER = re.compile(r"(.*)-worker-(\d{1,6})$")


class Roster:
    """Learns from every fact that names a rank and a label; a label of two ranks means none of them."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._ranks: dict[str, set[int]] = {}
        self._attempts: dict[str, int] = {}
        self._labels: dict[str, None] = {}
        facts = list(facts)
        largest = max((fact.size for fact in facts if isinstance(fact, CommJoined)), default=0)
        for fact in facts:
            rank = fact.who.global_rank
            if isinstance(fact, CommJoined) and fact.size == largest:
                rank = fact.rank
            self._learn(fact.who, rank)
        self.numbered_by_pid = not self._ranks and self._number_by_pid(facts)
        """Nothing says a rank, and processes are numbered as launchers start them: in the order of their pids."""
        self._bases = self._local_bases()
        self._labels_of: dict[tuple[str, int], list[str]] = {}
        for label, ranks in self._ranks.items():
            if len(ranks) == 1:
                kind, _, name = label.partition(":")
                self._labels_of.setdefault((kind, next(iter(ranks))), []).append(name)

    def rank_of(self, who: Who) -> int | None:
        """The global rank, where what is known decides it."""
        if who.global_rank is not None:
            return who.global_rank if who.global_rank <= MOST_RANKS else None
        # A label of the line itself, even one whose rank is unknown, says that the file has several writers.
        labels = [one for one in who.labels if not one.startswith(FILE_LABELS)] or who.labels
        for label in labels:
            known = self._ranks.get(label, set())
            if len(known) == 1:
                return next(iter(known))
        return next((r for label in labels if (r := self._by_rule(label)) is not None), None)

    def attempt_of(self, who: Who) -> int:
        """Which start of the job; of what does not say it, the newest in which its process was seen."""
        if who.attempt >= 0:
            return who.attempt
        return max((self._attempts.get(label, -1) for label in who.labels), default=-1)

    def labels_of(self, rank: int, kind: str) -> list[str]:
        """The labels of that kind that mean this rank, without the kind."""
        return self._labels_of.get((kind, rank), [])

    def _number_by_pid(self, facts: list[Fact]) -> bool:
        pids = sorted({fact.pid for fact in facts if isinstance(fact, Stacked) and fact.pid})
        if len(pids) < 2 or any(label.startswith(("local:", "task:")) for label in self._labels):
            return False
        self._ranks |= {f"pid:{pid}": {rank} for rank, pid in enumerate(pids)}
        return True

    def _learn(self, who: Who, rank: int | None) -> None:
        for label in who.labels:
            self._labels[label] = None
            self._attempts[label] = max(self._attempts.get(label, -1), who.attempt)
            if rank is not None and rank <= MOST_RANKS:
                self._ranks.setdefault(label, set()).add(rank)

    def _local_bases(self) -> dict[str, int]:
        """By scope, what to add to a local rank; a scope is one node's."""
        found: dict[str, set[int]] = {}
        scopes = {_scope_of(label) for label in self._labels if label.startswith("local:")}
        for label, ranks in self._ranks.items():
            if label.startswith("local:") and len(ranks) == 1:
                number = int(label.rpartition(":")[2])
                found.setdefault(_scope_of(label), set()).add(next(iter(ranks)) - number)
        unknown = scopes - found.keys()
        # Where only one node's folder is left that does not say its ranks, and all others begin at 0.
        if len(unknown) == 1 and all(bases == {0} for bases in found.values()):
            found[unknown.pop()] = {0}
        return {scope: next(iter(bases)) for scope, bases in found.items() if len(bases) == 1}

    def _by_rule(self, label: str) -> int | None:
        if self._ranks.get(label):
            return None  # of several ranks
        kind, _, name = label.partition(":")
        if kind == "local":
            base = self._bases.get(_scope_of(label))
            return None if base is None else base + int(label.rpartition(":")[2])
        if kind == "task":
            return int(name) if self._holds("task:", int) else None
        if kind == "numbered":
            return self._number_of_file(label)
        if kind == "pod":
            return _pod_rank(name) if self._holds("pod:", _pod_rank) else None
        return None

    def _number_of_file(self, label: str) -> int | None:
        """Files that differ in a number alone, from 0 on, are the ranks' own, in that order."""
        pattern, _, own = label.rpartition(":")
        numbers = [
            int(known.rpartition(":")[2]) for known in self._labels if _scope_of(known) == pattern
        ]
        is_series = len(numbers) > 1 and sorted(set(numbers)) == list(range(len(numbers)))
        return int(own) if is_series and self._holds(f"{pattern}:", int) else None

    def _holds(self, prefix: str, rule: object) -> bool:
        """Whether no label of that kind is known to mean anything else than the rule says."""
        return all(
            len(ranks) == 1 and callable(rule) and rule(label.removeprefix(prefix)) in ranks
            for label, ranks in self._ranks.items()
            if label.startswith(prefix)
        )


def _scope_of(label: str) -> str:
    return label.rpartition(":")[0]


def _pod_rank(name: str) -> int | None:
    """PyTorchJob: the master is rank 0, worker i is rank i + 1, with one process in each pod."""
    if _MASTER.match(name):
        return 0
    worker = _WORKER.match(name)
    return int(worker[2]) + 1 if worker else None
