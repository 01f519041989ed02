"""What the initializer needs from torch: a store, the default process group, a round trip, a mesh."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from distwatch.agent import core
from distwatch.agent.initialization.environment import Launched, backend_unavailable
from distwatch.agent.initialization.library import Layout
from distwatch.integrations.builders import Builder
from distwatch.integrations.torch_devices import default_backend, device_finding, device_of
from distwatch.preflight.accelerators import lack_of
from distwatch.state.addresses import split_endpoint
from distwatch.state.advice import NO_GPU
from distwatch.state.events import InitPlanned
from distwatch.state.finding import Finding

_hosted: dict[tuple[str, int], Any] = {}
"""Stores that this process hosts. They stay until it ends: peers may still read in them, and a world
that is formed again uses them, too."""
AFTER_DEADLINE_S = 15.0
_PACKAGES = {"xla": "torch_xla"}


class TorchLibrary:
    """torch.distributed, as the initializer uses it in one process."""

    def __init__(self, timeout: timedelta | None, builder: Builder | None) -> None:
        """
        Args:
            timeout: of later collectives; None for torch's own default.
            builder: of the groups on top of the world; None for none.
        """
        self._timeout = timeout
        self.builders: list[Builder] = [builder] if builder is not None else []
        """In the order in which they have built."""

    def unavailable(self, backend: str, launched: Launched) -> Finding | None:
        """Why the backend cannot work in this process; None where it can."""
        for one in backends_of(backend):
            if why := _why_unavailable(one):
                rank = launched.global_rank
                who = "this process" if rank is None else f"rank {rank}"
                what = f"{who} cannot use backend {one!r}: {why[0]}"
                return backend_unavailable(what, why[1], rank, seen=why[0])
        return device_finding(launched) if "nccl" in backends_of(backend) else None

    def host_store(self, host: str, port: int, world_size: int, timeout_s: float) -> None:
        """Listens at the endpoint, or keeps listening: a later world of this process uses it, too."""
        import torch.distributed as dist

        if (host, port) not in _hosted:
            _hosted[host, port] = dist.TCPStore(
                host_name=host,
                port=port,
                world_size=world_size,
                is_master=True,
                timeout=timedelta(seconds=timeout_s),
                wait_for_workers=False,
                multi_tenant=True,
            )

    def form(self, launched: Launched, plan: InitPlanned, within_s: float, prefix: str) -> None:
        """Forms the default process group in torch's own way, so that ranks without distwatch can join.

        Args:
            prefix: of the keys of a world that is formed again; torch's own keys would clash with those
                of the first world and hang. '' for the first.
        """
        import torch.distributed as dist

        if "nccl" in backends_of(plan.backend):
            _select_device(launched)
        asked = self._timeout or _default_timeout(plan.backend)
        # While the group forms, torch waits for peers a little longer than the step may take: the
        # deadline, which names the missing ranks, comes first.
        adjustable = os.environ.get("TORCH_DISTRIBUTED_DEBUG", "").upper() != "DETAIL"
        longest = timedelta(seconds=within_s + AFTER_DEADLINE_S)
        forming = min(asked, longest) if adjustable else asked
        dist.init_process_group(
            backend=plan.backend, timeout=forming, **_meeting(launched, prefix, forming)
        )
        if forming != asked:
            _set_timeout(asked)

    def round_trip(self, world_size: int, within_s: float) -> None:
        """Adds up one number from every rank.

        Raises:
            RuntimeError: it did not return in time, or returned a wrong sum.
        """
        import torch
        import torch.distributed as dist

        one = torch.ones(1, device=device_of(str(dist.get_backend())))
        work = dist.all_reduce(one, async_op=True)
        if work is not None:
            _wait_for(work, within_s)
        total = int(one.item())
        if total != world_size:
            raise RuntimeError(f"the first round trip gave {total}, not {world_size}")

    def build(self, plan: InitPlanned) -> Layout:
        """The framework's groups."""
        return {} if not self.builders else self.builders[0].build(plan)

    def undo(self) -> None:
        """Destroys what was built on top, the last first, then the default group."""
        import torch.distributed as dist

        if not dist.is_initialized():
            return
        for builder in reversed(self.builders):
            builder.undo()
        dist.destroy_process_group()


def _wait_for(work: Any, within_s: float) -> None:
    """As `work.wait(timeout)`, which for gloo polls only every 50 ms."""
    until, pause_s = time.monotonic() + within_s, 0.0002
    while not work.is_completed():
        if time.monotonic() > until:
            raise RuntimeError(f"the first round trip did not come back within {within_s:.0f} s")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.01)
    work.wait()


def backends_of(backend: str) -> list[str]:
    """`cpu:gloo,cuda:nccl` → gloo, nccl; in lower case, as torch reads it."""
    return [part.rpartition(":")[2].strip().lower() for part in backend.split(",")]


def _meeting(launched: Launched, prefix: str, timeout: timedelta) -> dict[str, Any]:
    """The arguments of `init_process_group` with the endpoint of the ranks."""
    import torch.distributed as dist

    rank, world = launched.global_rank, launched.world_size
    place = {"rank": rank, "world_size": world}
    if launched.method == "alone":
        return {**place, "store": dist.HashStore()}
    if prefix:
        return {**place, "store": dist.PrefixStore(prefix, _store_again(launched, timeout))}
    if launched.method == "file":
        return {**place, "init_method": f"file://{launched.endpoint}"}
    if launched.method == "env" and all(
        os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    ):
        return {"init_method": "env://"}
    return {**place, "init_method": f"tcp://{launched.endpoint}"}


def _store_again(launched: Launched, timeout: timedelta) -> Any:
    import torch.distributed as dist

    if launched.method == "file":
        return dist.FileStore(launched.endpoint, launched.world_size or -1)
    host, port = split_endpoint(launched.endpoint) or ("", 0)
    if (host, port) in _hosted:
        return _hosted[host, port]
    return dist.TCPStore(
        host_name=host, port=port, world_size=launched.world_size, is_master=False,
        timeout=timeout, wait_for_workers=False,
    )  # fmt: skip


def _default_timeout(backend: str) -> timedelta:
    import torch.distributed as dist

    if "nccl" in backends_of(backend):
        return timedelta(minutes=10)
    default: timedelta = dist.distributed_c10d.default_pg_timeout
    return default


def _set_timeout(timeout: timedelta) -> None:
    import torch.distributed as dist

    dist.distributed_c10d._set_pg_timeout(timeout)
    if agent := core.current():
        agent.amend_group(str(dist.group.WORLD.group_name), timeout_s=timeout.total_seconds())
    dist.distributed_c10d._get_default_store().set_timeout(timeout)


def _select_device(launched: Launched) -> None:
    import torch

    count = torch.cuda.device_count()
    # A launcher that shows each rank one GPU gives it number 0 in every rank.
    torch.cuda.set_device(launched.local_rank if count > 1 else 0)


def _why_unavailable(backend: str) -> tuple[str, str] | None:
    """The reason and the fix; None for a backend that works here."""
    import torch
    import torch.distributed as dist

    lack = lack_of(backend, os.environ)
    if lack is not None and lack.severity == "crash":
        return lack.reason, lack.fix
    if backend == "nccl" and not torch.cuda.is_available():
        return "torch sees no GPU in this process", NO_GPU
    if package := _PACKAGES.get(backend):
        importlib.import_module(f"{package}.distributed.xla_backend")
    if not hasattr(dist.Backend, backend.upper()):
        known = ", ".join(dist.Backend.backend_list)
        fix = f"It knows {known}; a plugin must be imported first."
        return f"torch knows no backend {backend!r}", fix
    return None


def choose_backend(asked: str | None) -> str:
    """The requested one, else by this process's devices: nccl, xla or gloo."""
    return asked.lower() if asked else default_backend()


def axes_of(
    names_and_sizes: Iterable[tuple[str, int]], world_size: int
) -> tuple[tuple[str, int], ...]:
    """The axes of more than one rank; only the data axis where there is none."""
    axes = tuple((name, size) for name, size in names_and_sizes if size > 1)
    return axes or (("dp", world_size),)
