"""The double of SGLang 0.5.23's runtime context: sizes, ranks and groups that modules read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

_SIZES = {
    "tp_size": "tp_size", "pp_size": "pp_size", "moe_ep_size": "ep_size", "attn_dp_size": "", "attn_cp_size": "",
    "moe_dp_size": "", "attn_dcp_size": "",
}  # fmt: skip
_DERIVED = (
    "tp_rank pp_rank attn_cp_rank moe_dp_rank moe_ep_rank moe_tp_rank attn_tp_rank attn_dp_rank attn_tp_size "
    "moe_tp_size dcp_enabled shared_experts_tp_size world_group tp_group pp_group attn_tp_group attn_cp_group "
    "moe_ep_group moe_tp_group"
).split()


class SpawnRanks(NamedTuple):
    """Where the launcher has placed this process."""

    world_rank: int
    dp_rank: int | None = None
    gpu_id: int | None = None


class ParallelContext:
    """What was written for good, over what is published."""

    def __init__(self) -> None:
        self.stamp: dict[str, Any] = {}
        self.scoped: dict[str, Any] = {}
        self.published: Any = None
        self.role = ""

    def __getattr__(self, name: str) -> Any:
        for written in (self.scoped, self.stamp):
            if name in written:
                return written[name]
        if name in _SIZES:
            if self.published is None:
                raise ValueError("config namespace 'parallel' not published")
            return getattr(self.published, _SIZES[name], 1) if _SIZES[name] else 1
        if name in _DERIVED:
            raise RuntimeError(
                f"parallel name {name!r} has not been written in this process. Write it by publishing a rank "
                f"bundle or building the groups, or state it with get_parallel().override({name}=...)"
            )
        raise AttributeError(f"ParallelContext has no {name!r}")

    def override_permanently(self, **values: Any) -> None:
        """Until the groups are destroyed."""
        if unknown := set(values) - {*_SIZES, *_DERIVED}:
            raise ValueError(f"unknown parallel field(s): {sorted(unknown)}")
        self.stamp.update(values)

    @contextlib.contextmanager
    def override(self, **values: Any) -> Iterator[ParallelContext]:
        """Until the block ends."""
        before, self.scoped = self.scoped, {**self.scoped, **values}
        try:
            yield self
        finally:
            self.scoped = before

    def clear_stamp(self) -> None:
        """Ranks included."""
        self.stamp.clear()


_PARALLEL = ParallelContext()


def get_parallel() -> ParallelContext:
    """The process's own."""
    return _PARALLEL


def derive_spawn_ranks(
    *, world_rank: int, tp_size: int, ep_join_rank_offset: int, attn_cp_size: int, attn_tp_size: int,
    moe_dp_size: int, moe_ep_size: int,
) -> dict[str, int]:  # fmt: skip
    """From the world's rank, without groups."""
    tp_rank = (world_rank - ep_join_rank_offset) % tp_size
    moe_tp = tp_size // moe_dp_size // moe_ep_size
    return {
        "tp_rank": tp_rank,
        "pp_rank": (world_rank - ep_join_rank_offset) // tp_size,
        "attn_cp_rank": tp_rank // attn_tp_size % attn_cp_size,
        "moe_dp_rank": tp_rank // (tp_size // moe_dp_size),
        "moe_ep_rank": tp_rank % (tp_size // moe_dp_size) // moe_tp,
        "moe_tp_rank": tp_rank % moe_tp,
    }


def publish(server_args: Any, *, role: str, ranks: SpawnRanks | None = None) -> None:
    """The last one wins."""
    _PARALLEL.published, _PARALLEL.role = server_args, role
    if ranks is not None:
        placed = derive_spawn_ranks(
            world_rank=ranks.world_rank, tp_size=server_args.tp_size, ep_join_rank_offset=0, attn_cp_size=1,
            attn_tp_size=server_args.tp_size, moe_dp_size=1, moe_ep_size=server_args.ep_size,
        )  # fmt: skip
        _PARALLEL.override_permanently(**placed)


def assert_published(server_args: Any, *, role: str) -> None:
    """As the runner asks for it."""
    if _PARALLEL.published is not server_args or _PARALLEL.role != role:
        raise RuntimeError(
            f"config not published for role {role!r}: nothing is published in this process. The process entry "
            "publishes -- add publish(server_args, role=...) there rather than publishing from a constructor."
        )
