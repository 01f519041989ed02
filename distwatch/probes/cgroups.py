"""The memory cgroup of a process, versions 1 and 2, also from inside a container."""

from __future__ import annotations

import os
from dataclasses import dataclass

from distwatch.probes.procfs import read_text

_UNLIMITED = 1 << 60
_V1 = {
    "limit": "memory.limit_in_bytes",
    "used": "memory.usage_in_bytes",
    "events": "memory.oom_control",
}
_V2 = {"limit": "memory.max", "used": "memory.current", "events": "memory.events"}


@dataclass(frozen=True)
class MemoryGroup:
    """A memory cgroup: `path` is its folder, `root` the topmost visible one."""

    path: str
    root: str
    files: dict[str, str]

    @property
    def limit(self) -> tuple[int | None, int | None]:
        """Bytes allowed and used where there is least room, in the group itself or in one above it.

        Without any limit: None, and the group's own use. File cache that is not in use does not count:
        the kernel drops it before it kills.
        """
        limits = [
            (limit - (used or 0), limit, used)
            for folder in self._upwards()
            if (limit := self._number(folder, "limit")) is not None
            for used in [self._used(folder)]
        ]
        if not limits:
            return None, self._used(self.path)
        _, limit, used = min(limits, key=lambda one: one[0])
        return limit, used

    @property
    def oom_kills(self) -> int | None:
        """How many processes of the group the OOM killer has killed; None where the kernel does not say."""
        for line in read_text(f"{self.path}/{self.files['events']}").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdigit():
                return int(value)
        return None

    def _upwards(self) -> list[str]:
        folders = [self.path]
        while len(folders[-1]) > len(self.root):
            folders.append(os.path.dirname(folders[-1]))
        return folders

    def _used(self, folder: str) -> int | None:
        used = self._number(folder, "used")
        if used is None:
            return None
        lines = [line.split() for line in read_text(f"{folder}/memory.stat").splitlines()]
        known = {name: int(value) for name, value in (line for line in lines if len(line) == 2)}
        # Version 1 reports the sums over child groups as total_…
        idle = known.get("total_inactive_file", known.get("inactive_file", 0))
        return max(0, used - idle)

    def _number(self, folder: str, what: str) -> int | None:
        text = read_text(f"{folder}/{self.files[what]}").strip()
        value = int(text) if text.isdigit() else _UNLIMITED
        return value if value < _UNLIMITED else None


def memory_group(pid: int) -> MemoryGroup | None:
    """The memory cgroup that a process is in; None where none is visible."""
    mounts = _mounts()
    paths = [line.split(":", 2) for line in read_text(f"/proc/{pid}/cgroup").splitlines()]
    # On a hybrid machine, version 1 has the memory controller and version 2 only the tree.
    for version, files in (("cgroup", _V1), ("cgroup2", _V2)):
        for _, controllers, path in (one for one in paths if len(one) == 3):
            if version == "cgroup" and "memory" not in controllers.split(","):
                continue
            if version == "cgroup2" and controllers:
                continue
            for kind, top, mount in mounts:
                folder = _folder(path, top, mount)
                if kind == version and os.path.exists(f"{folder}/{files['used']}"):
                    return MemoryGroup(path=folder, root=mount, files=files)
    return None


def _mounts() -> list[tuple[str, str, str]]:
    """Kind, root within the hierarchy, and mount point of each possible memory controller."""
    found = []
    for line in read_text("/proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        fields, kinds = head.split(), tail.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        memory = kinds[0] == "cgroup" and "memory" in kinds[2].split(",")
        if memory or kinds[0] == "cgroup2":
            found.append((kinds[0], fields[3], fields[4]))
    return found


def _folder(path: str, top: str, mount: str) -> str:
    # In a container the mount shows only its own part of the hierarchy, but the process's path may
    # be relative to the host's root.
    if top != "/" and (path == top or path.startswith(top + "/")):
        path = path[len(top) :]
    folder = mount + path.rstrip("/")
    return folder if "/.." not in path and os.path.isdir(folder) else mount
