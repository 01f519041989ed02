"""torch's process groups, read from its own tables."""

from __future__ import annotations

from collections.abc import Collection
from types import ModuleType
from typing import Any

from distwatch.state.events import GroupCreated, Site


class KnownGroups:
    """The content of `distributed_c10d._world`, in order of creation.

    Only threads that call torch may read it: `group.rank()` and similar calls drop the GIL, which the
    agent's thread must not do.

    Attributes:
        calls: the number of `new_group` calls since the last full destroy.
        local_calls: those with `use_local_synchronization`, which `calls` leaves out.
        created: names of the groups of each backend in order of creation in this process: the
            flight recorder's numbering. Grows for ever, as those numbers do.
        initializing: whether `init_process_group` is under way.
        own_worlds: root groups that `init_process_group` did not make, by name, each with its
            store's endpoint: they number members from 0.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._names: set[str] = set()
        self._ordered: set[str] = set()
        self.calls = 0
        self.local_calls = 0
        self.created: dict[str, list[str]] = {}
        self.initializing = False
        self.own_worlds: dict[str, str] = {}

    @property
    def held(self) -> int:
        """How many groups torch holds names of: it names a group of members only by that."""
        return len(self._module._world.pg_names)

    def note_order(self) -> None:
        """Notes the existing groups, before their members are known."""
        world = self._module._world
        for group, (backend, _) in list(world.pg_map.items()):
            name = str(world.pg_names.get(group, ""))
            if name in self._ordered:
                continue
            self._ordered.add(name)
            config = str(world.pg_backend_config.get(group, backend))
            for one in dict.fromkeys(_backends(config) or [str(backend)]):
                self.created.setdefault(one, []).append(name)

    def read(self, agent: Any, made: Any = None, site: Site | None = None) -> None:
        """Records the groups that are new since the last reading.

        Args:
            made: the group that the call at `site` returned.
        """
        self.note_order()
        world = self._module._world
        for group, (backend, _) in list(world.pg_map.items()):
            name = str(world.pg_names.get(group, ""))
            if name in self._names:
                continue
            self._names.add(name)
            agent.record(
                GroupCreated(
                    pg_name=name,
                    pg_desc=str(getattr(group, "group_desc", "") or ""),
                    backend=str(backend),
                    members=self._members(group),
                    timeout_s=_timeout_s(group),
                    site=site if group is made else None,
                    world=self.own_worlds.get(name, ""),
                )
            )

    def _members(self, group: Any) -> tuple[int, ...]:
        """Global ranks, sorted; none where torch does not know them or numbers them differently.

        Frameworks that build their own root group (slime, SGLang) number its members from 0: those
        numbers would blame the wrong ranks.
        """
        world = self._module._world
        ranks = world.pg_group_ranks.get(group) or {}
        if world.pg_names.get(group) in self.own_worlds or not self._module.is_initialized():
            return ()
        if ranks.get(self._module.get_rank()) != group.rank():
            return ()
        return tuple(sorted(int(r) for r in ranks))

    def forget(self, pg_name: str) -> None:
        """Drops a destroyed group; all groups for ''."""
        if pg_name:
            self._names.discard(pg_name)
            self._ordered.discard(pg_name)
            self.own_worlds.pop(pg_name, None)
        else:
            self._names.clear()
            self._ordered.clear()
            self.own_worlds.clear()
            self.calls = self.local_calls = 0


def members_of_call(ranks: object) -> tuple[int, ...] | None:
    """The ranks passed to `new_group`; None for all; () for an iterator, which only torch may consume."""
    if ranks is None:
        return None
    return tuple(int(r) for r in ranks) if isinstance(ranks, Collection) else ()


def _backends(config: str) -> list[str]:
    """`cpu:gloo,cuda:nccl` → gloo, nccl."""
    return [part.partition(":")[2] for part in config.split(",") if ":" in part]


def _timeout_s(group: Any) -> float | None:
    for device in getattr(group, "_device_types", ()):
        try:
            timeout = group._get_backend(device).options._timeout
        except (AttributeError, RuntimeError):
            continue  # a backend without options, or of another kind: it has no timeout
        return float(timeout.total_seconds())
    return None
