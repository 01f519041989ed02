"""The main threads of all ranks as one tree: where most are, and which are elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.outside_view import largest_job
from distwatch.diagnosis.facts.user_frame import work_frames
from distwatch.state.events import Frame
from distwatch.state.model import RunState

_ADDRESS = re.compile(r"0x[0-9a-f]*?([0-9a-f]{3})")
"""An address without a symbol. Each process loads a library elsewhere, by whole pages of 4 KiB: the
last three digits name the place in the library, the others differ from rank to rank."""


class StackNode(msgspec.Struct, kw_only=True):
    """One frame, and the ranks whose stacks go through it. `line` is 0 for native frames."""

    function: str
    file: str
    line: int = 0
    native: bool = False
    global_ranks: tuple[int, ...] = ()
    children: list[StackNode] = []

    @property
    def place(self) -> str:
        """The file and line; of a native frame the library."""
        return f"{self.file}:{self.line}" if self.line else self.file


def merge_stacks(state: RunState, job: Job | None = None) -> list[StackNode]:
    """The outermost frames, each with the frames inside; ranks without a stack are in none."""
    stacks = {
        rank: work_frames(process) for rank, process in (job or largest_job(state)).ranks.items()
    }
    return merge({rank: frames for rank, frames in stacks.items() if frames})


def merge(stacks: dict[int, tuple[Frame, ...]]) -> list[StackNode]:
    """Merges stacks by rank (outermost frame first) into a prefix tree."""
    # Whole stacks first: in a hang, thousands of ranks share a handful of stacks.
    # Most equal ones are one object already, which needs no comparison.
    classes: dict[tuple[Frame, ...], list[int]] = {}
    by_identity: dict[int, list[int]] = {}
    for rank, frames in stacks.items():
        alike = by_identity.get(id(frames))
        if alike is None:
            alike = by_identity[id(frames)] = classes.setdefault(frames, [])
        alike.append(rank)
    roots: list[StackNode] = []
    within: dict[int, list[int]] = {}
    index: dict[tuple[int, str, str, int], StackNode] = {}
    for number, frames in enumerate(classes):
        siblings, parent = roots, 0
        for frame in frames:
            function = _function(frame)
            key = (parent, function, frame.file, frame.line)
            node = index.get(key)
            if node is None:
                node = index[key] = StackNode(
                    function=function,
                    file=frame.file,
                    line=frame.line,
                    native=frame.native,
                    children=[],
                )
                siblings.append(node)
            within.setdefault(id(node), []).append(number)
            siblings, parent = node.children, id(node)
    _place_ranks(index.values(), list(classes.values()), within)
    for node in index.values():
        node.children.sort(key=lambda child: (-len(child.global_ranks), child.line))
    return sorted(roots, key=lambda root: (-len(root.global_ranks), root.global_ranks))


def _place_ranks(
    nodes: Iterable[StackNode], classes: list[list[int]], within: dict[int, list[int]]
) -> None:
    """Gives each node the ranks of its classes. Most nodes of a chain have the same: once for all of them."""
    known: dict[tuple[int, ...], tuple[int, ...]] = {}
    for node in nodes:
        numbers = tuple(within[id(node)])
        if numbers not in known:
            known[numbers] = tuple(sorted(rank for number in numbers for rank in classes[number]))
        node.global_ranks = known[numbers]


def _function(frame: Frame) -> str:
    address = _ADDRESS.fullmatch(frame.function) if frame.native else None
    return f"0x…{address[1]}" if address else frame.function
