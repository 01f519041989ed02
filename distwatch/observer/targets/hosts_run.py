"""A run on several hosts as long as somebody looks: what was started there for that ends with it."""

from __future__ import annotations

import asyncio

from distwatch.observer.cluster.hosts import start_keepers
from distwatch.observer.cluster.shells import Keeper
from distwatch.observer.targets.live import LiveRun
from distwatch.observer.targets.run_source import SourceLost
from distwatch.runfolder import RunFolder
from distwatch.state.identity import Identity


class HostsRun(LiveRun):
    """The view of this host's observer, which is the root while this run is open."""

    def __init__(
        self, folder: RunFolder, hosts: list[str], shell: str, address: str, job: Identity | None
    ) -> None:
        super().__init__(folder, f"this host and {', '.join(hosts)}")
        self._hosts = hosts
        self._shell = shell
        self._address = address
        self._job = job
        self._keepers: list[Keeper] = []

    async def open(self) -> None:
        """Starts the observers and joins them; raises SourceLost where this host has none.

        Raises:
            UsageError, NoSuchTarget: as `start_keepers`.
        """
        self._keepers = await start_keepers(
            self.folder, self._hosts, self._shell, self._address, self._job, while_attached=True
        )
        here, *there = [keeper.joined for keeper in self._keepers]
        if here.failed:
            await self.close()
            raise SourceLost(f"{here.host} is not the root: {here.failed}")
        self.left_out = [f"{one.host} was not joined: {one.failed}" for one in there if one.failed]
        self.note = "; ".join([self.note, *self.left_out])
        await super().open()

    async def close(self) -> None:
        """Disconnects, and ends what was started: the leaves deliver first."""
        await super().close()
        keepers, self._keepers = self._keepers, []
        await asyncio.gather(*(leaf.end() for leaf in keepers[1:]))
        for root in keepers[:1]:
            await root.end()
