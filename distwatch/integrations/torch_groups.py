"""The process groups that torch holds, read from its own tables."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from distwatch.state.events import GroupCreated


class KnownGroups:
    """What was read of `distributed_c10d._world`, in order of creation.

    Attributes:
        calls: how many times `new_group` was called since the last full destroy.
        created: names of the groups of each backend in order of creation in this process,
            which is what the flight recorder numbers them by. Grows for ever, as its numbers do.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._names: set[str] = set()
        self.calls = 0
        self.created: dict[str, list[str]] = {}

    def read(self, agent: Any) -> None:
        """Records the groups that are new since the last reading."""
        world = self._module._world
        for group, (backend, _) in list(world.pg_map.items()):
            name = str(world.pg_names.get(group, ""))
            if name in self._names:
                continue
            self._names.add(name)
            config = str(world.pg_backend_config.get(group, backend))
            for one in dict.fromkeys(_backends(config) or [str(backend)]):
                self.created.setdefault(one, []).append(name)
            members = tuple(int(r) for r in world.pg_group_ranks.get(group, {}))
            created = GroupCreated(
                pg_name=name,
                pg_desc=str(getattr(group, "group_desc", "") or ""),
                backend=str(backend),
                members=tuple(sorted(members)),
                timeout_s=_timeout_s(group),
            )
            agent.hold_group(created)

    def forget(self, pg_name: str) -> None:
        """Drops a destroyed group; all of them for ''."""
        if pg_name:
            self._names.discard(pg_name)
        else:
            self._names.clear()
            self.calls = 0


def _backends(config: str) -> list[str]:
    """`cpu:gloo,cuda:nccl` → gloo, nccl."""
    return [part.partition(":")[2] for part in config.split(",") if ":" in part]


def _timeout_s(group: Any) -> float | None:
    for device in getattr(group, "_device_types", ()):
        options = getattr(group._get_backend(device), "options", None)
        timeout = getattr(options, "_timeout", None)
        if timeout is not None:
            return float(timeout.total_seconds())
    return None
