"""A double of training programs: the calls of each rank in TP, CP, PP, EP and DP groups, in their order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import product

AXES = ("tp", "cp", "dp", "pp")
"""From the axis whose ranks lie closest together."""


@dataclass(frozen=True)
class Layout:
    """Sizes of the axes; the experts' groups lie along `dp`."""

    tp: int = 1
    cp: int = 1
    dp: int = 1
    pp: int = 1
    ep: int = 1
    chunks: int = 1
    """Model chunks of each stage: more than one is the interleaved schedule."""
    overlaps: bool = False
    """Whether gradients are reduced on a stream of their own while the backward goes on."""

    p2p_in_default: bool = False
    """Whether the pipeline's sends and recvs are calls of the group of all ranks."""

    @property
    def world(self) -> int:
        return self.tp * self.cp * self.dp * self.pp

    def __str__(self) -> str:
        sizes = ((axis, getattr(self, axis)) for axis in (*AXES, "ep"))
        return "×".join(f"{axis}{size}" for axis, size in sizes if size > 1) or "single"


@dataclass
class Call:
    """One call of one rank. Members are global ranks."""

    group: str
    op: str
    size: int = 1024
    peer: int = -1
    """The other side's global rank, for a send or recv."""
    batch: int = -1
    """Calls of one number run together."""
    waits: bool = False
    """The CPU waits for the device after it."""
    stream: int = 0
    seq: int = 0
    p2p_seq: int = 0

    @property
    def is_p2p(self) -> bool:
        return self.peer >= 0


@dataclass
class Programs:
    """What each rank calls."""

    layout: Layout
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """By name; a name begins with its axis."""
    calls: dict[int, list[Call]] = field(default_factory=dict)

    def groups_of(self, rank: int) -> dict[str, tuple[int, ...]]:
        return {name: members for name, members in self.groups.items() if rank in members}


def random_layout(dice: random.Random, most: int = 16) -> Layout:
    """A layout of 4 to `most` ranks."""
    while True:
        sizes = {axis: dice.choice((1, 1, 2, 2, 4)) for axis in AXES}
        layout = Layout(
            **sizes,
            ep=dice.choice((1, 2)),
            chunks=dice.choice((1, 1, 2)),
            overlaps=dice.random() < 0.3,
        )
        if 4 <= layout.world <= most and layout.dp % layout.ep == 0:
            return layout


def build(layout: Layout, steps: int, microbatches: int) -> Programs:
    """The programs of some training steps."""
    programs = Programs(layout, _groups(layout))
    for rank in range(layout.world):
        builder = _Builder(programs, rank)
        for _ in range(steps):
            builder.step(microbatches)
        programs.calls[rank] = builder.calls
    return programs


def _groups(layout: Layout) -> dict[str, tuple[int, ...]]:
    sizes = {axis: getattr(layout, axis) for axis in AXES}
    places = {
        sum(place[a] * _stride(sizes, a) for a in AXES): place
        for values in product(*(range(size) for size in sizes.values()))
        for place in (dict(zip(AXES, values, strict=True)),)
    }
    groups: dict[str, tuple[int, ...]] = {"default_pg": tuple(sorted(places))}
    for axis in AXES:
        along: dict[tuple[int, ...], list[int]] = {}
        for rank in sorted(places):
            rest = tuple(places[rank][other] for other in AXES if other != axis)
            along.setdefault(rest, []).append(rank)
        for number, members in enumerate(along.values()):
            if len(members) > 1:
                groups[f"{axis}_{number}"] = tuple(members)
            if axis == "dp" and layout.ep > 1:
                for part in range(0, len(members), layout.ep):
                    groups[f"ep_{number}_{part}"] = tuple(members[part : part + layout.ep])
    return groups


def _stride(sizes: dict[str, int], axis: str) -> int:
    stride = 1
    for other in AXES[: AXES.index(axis)]:
        stride *= sizes[other]
    return stride


class _Builder:
    def __init__(self, programs: Programs, rank: int) -> None:
        self.layout, self.rank, self.calls = programs.layout, rank, []  # type: ignore[var-annotated]
        self.by_axis = {
            name.partition("_")[0]: (name, members)
            for name, members in programs.groups_of(rank).items()
        }
        self.batches = 0
        _, pipe = self.by_axis.get("pp", ("", (rank,)))
        self.pipe, self.stage = pipe, pipe.index(rank)

    def step(self, microbatches: int) -> None:
        """One step: 1F1B, with each chunk of an interleaved schedule as a stage of its own."""
        stages = len(self.pipe) * self.layout.chunks
        for number in range(microbatches):
            for chunk in range(self.layout.chunks):
                self.block(chunk * len(self.pipe) + self.stage, stages, 1)
            if number:
                self.backward(stages, last=False)
        self.backward(stages, last=True)
        if not self.layout.overlaps:
            self.call("dp", "_reduce_scatter_base", 4096)
            self.call("dp", "_all_gather_base", 4096)
        self.call("default", "all_reduce", 1, waits=True)

    def backward(self, stages: int, *, last: bool) -> None:
        for chunk in reversed(range(self.layout.chunks)):
            self.block(chunk * len(self.pipe) + self.stage, stages, -1)
            if last and self.layout.overlaps:
                self.call("dp", "_reduce_scatter_base", 4096 + chunk, stream=1)

    def block(self, stage: int, stages: int, way: int) -> None:
        """A chunk's forward (1) or backward (-1) between what it receives and what it sends."""
        before, after = stage - way, stage + way
        if 0 <= before < stages:
            self.peer("recv", before)
        for _ in range(2):
            self.call("cp", "_all_gather_base", 512)
            self.call("tp", "_all_gather_base", 256)
            self.call("ep", "all_to_all", 128)
            self.call("ep", "all_to_all", 130)
            self.call("tp", "_reduce_scatter_base", 2048)
        self.call("tp", "all_reduce", 16)
        if 0 <= after < stages:
            self.peer("send", after)

    def call(self, axis: str, op: str, size: int, *, waits: bool = False, stream: int = 0) -> None:
        if axis in self.by_axis:
            name, _ = self.by_axis[axis]
            self.calls.append(Call(name, op, size, waits=waits, stream=stream))

    def peer(self, op: str, stage: int) -> None:
        other = self.pipe[stage % len(self.pipe)]
        if other != self.rank:
            axis = "default" if self.layout.p2p_in_default else "pp"
            self.calls.append(Call(self.by_axis[axis][0], op, 4096, peer=other))
