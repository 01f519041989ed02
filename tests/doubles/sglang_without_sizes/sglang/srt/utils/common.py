"""The double of SGLang's weight-sync groups, which are built past `init_process_group`."""

from __future__ import annotations

from typing import Any


def init_custom_process_group(
    backend: str, init_method: str, timeout: Any, world_size: int, rank: int, group_name: str
) -> Any:
    """A root group of its own: c10d's rendezvous and helper, called directly as SGLang does."""
    from torch.distributed.distributed_c10d import (
        Backend,
        PrefixStore,
        _new_process_group_helper,
        _world,
        rendezvous,
    )

    store, rank, world_size = next(rendezvous(init_method, rank, world_size, timeout=timeout))
    store.set_timeout(timeout)
    store = PrefixStore(group_name, store)
    group, _ = _new_process_group_helper(
        world_size, rank, [], Backend(backend), store, group_name=group_name, timeout=timeout
    )
    _world.pg_group_ranks[group] = {place: place for place in range(world_size)}
    return group
