"""Who is put into a rack, who becomes its root, and who takes its place."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from distwatch.observer.link import racks as module
from distwatch.observer.link.racks import Grouping, Member, Step


@dataclass
class Tree:
    """Hosts that do what they are told, as `next_steps` sees them."""

    grouping: Grouping = field(default_factory=Grouping)
    direct: dict[str, Member] = field(default_factory=dict)
    below: dict[str, set[str]] = field(default_factory=dict)

    def link(self, *hosts: str, rack: str = "", unreachable: str = "") -> None:
        for host in hosts:
            self.direct[host] = Member(host=host, rack=rack, unreachable=unreachable)

    def settle(self) -> None:
        """Carries out what is said until nothing is said any more."""
        while steps := self.grouping.next_steps(self.direct.values()):
            for step in steps:
                self._take(step)

    def lose(self, root: str) -> None:
        """The root of a rack dies; its hosts come back, and cannot reach it."""
        rack = self.direct.pop(root).rack
        self.link(*self.below.pop(root), rack=rack, unreachable=f"{root}:1")

    def _take(self, step: Step) -> None:
        member = self.direct[step.host]
        root = step.place.removesuffix(":1")
        if not step.place:
            self.below[step.host] = set()
        else:
            del self.direct[step.host]
            self.below[root].add(step.host)
        changed = step.host if not step.place else root
        rack = self.direct.get(changed, member).rack
        self.direct[changed] = Member(
            host=changed, rack=rack, place=f"{changed}:1", holds=len(self.below[changed])
        )


def names(count: int) -> list[str]:
    return [f"n{number:02}" for number in range(count)]


def test_few_hosts_send_to_the_root_of_the_run() -> None:
    tree = Tree()
    tree.link(*names(12))
    tree.settle()
    assert tree.below == {}


def test_very_many_hosts_are_put_into_racks_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TREE_FROM", 10)
    monkeypatch.setattr(module, "RACK_HOSTS", 4)
    tree = Tree()
    tree.link(*names(10))
    tree.settle()
    assert {root: len(held) for root, held in tree.below.items()} == {"n00": 3, "n04": 3, "n08": 1}
    assert sorted(tree.direct) == ["n00", "n04", "n08"]
    tree.link("late")
    tree.settle()
    assert "late" in tree.below["n08"]


def test_a_named_rack_has_a_root_once_it_has_two_hosts() -> None:
    tree = Tree()
    tree.link("n1", rack="a")
    tree.link("n4", rack="b")
    tree.settle()
    assert tree.below == {}
    tree.link("n2", "n3", rack="a")
    tree.settle()
    assert tree.below == {"n1": {"n2", "n3"}}
    assert set(tree.direct) == {"n1", "n4"}


def test_a_root_that_dies_is_replaced_by_another_host_of_its_rack() -> None:
    tree = Tree()
    tree.link("n1", "n2", rack="a")
    tree.settle()
    tree.lose("n1")
    tree.settle()
    assert tree.below == {"n2": set()}, "a rack of which one host is left is still one"
    tree.link("n1", rack="a")
    tree.settle()
    assert tree.below == {"n2": {"n1"}}


def test_hosts_of_a_root_that_died_go_to_others_of_its_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TREE_FROM", 6)
    monkeypatch.setattr(module, "RACK_HOSTS", 4)
    tree = Tree()
    tree.link(*names(7))
    tree.settle()
    assert {root: len(held) for root, held in tree.below.items()} == {"n00": 3, "n04": 2}
    tree.lose("n00")
    tree.settle()
    assert sum(1 + len(held) for held in tree.below.values()) == 6
    assert len(tree.below["n04"]) == 3


def test_who_cannot_reach_a_root_is_not_sent_there_again() -> None:
    tree = Tree()
    tree.link("n1", "n2", rack="a")
    tree.settle()
    tree.link("n3", rack="a", unreachable="n1:1")
    assert tree.grouping.next_steps(tree.direct.values()) == [Step("n3")]


def test_who_cannot_listen_is_not_asked_again() -> None:
    members = [Member(host="n1", rack="a", unable=True), Member(host="n2", rack="a")]
    assert Grouping().next_steps(members) == [Step("n2")]
    waits = [Member(host="n1", rack="a"), Member(host="n2", rack="a", invited=True)]
    assert Grouping().next_steps(waits) == [], "its root is on its way"
    gone = [
        Member(host="n1", rack="a", place="n1:1"),
        Member(host="n2", rack="a", goes_to="n1:1"),
    ]
    assert Grouping().next_steps(gone) == []
