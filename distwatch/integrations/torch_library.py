"""torch for the initializer: a store, the default process group, a round trip, more groups."""

from __future__ import annotations

import importlib
import os
import time
from datetime import timedelta
from typing import Any

from distwatch.agent import core
from distwatch.agent.initialization.environment import Launched, backend_unavailable
from distwatch.agent.initialization.library import Layout
from distwatch.integrations.builders import Builder
from distwatch.integrations.torch_devices import device_finding, device_of
from distwatch.preflight.accelerators import lack_of
from distwatch.state.addresses import split_endpoint
from distwatch.state.advice import NO_GPU
from distwatch.state.events import GroupCalled, InitPlanned, StepStarted
from distwatch.state.finding import Finding
from distwatch.state.group_creation import CreationProgress

_hosted: dict[tuple[str, int], Any] = {}
"""Stores that this process hosts. They stay until it ends: peers may still read in them, and a world
that is formed again uses them, too."""
AFTER_DEADLINE_S = 15.0


class TorchLibrary:
    """torch.distributed, as the initializer uses it in one process."""

    def __init__(self, timeout_s: float | None, builder: Builder | None) -> None:
        """
        Args:
            timeout_s: of later collectives; None for torch's own default.
            builder: of the groups on top of the world; None for none.
        """
        self._timeout = timedelta(seconds=timeout_s) if timeout_s is not None else None
        self.builders: list[Builder] = [builder] if builder is not None else []
        """In the order of their groups' creation."""

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
            prefix: for the keys of a later world, which would hang on the first world's keys; '' for the
                first world.
        """
        import torch.distributed as dist

        if "nccl" in backends_of(plan.backend):
            _select_device(launched)
        asked = self._timeout or _default_timeout(plan.backend)
        # torch's timeout while the group forms is slightly longer than the step's deadline, which
        # comes first and names the missing ranks.
        adjustable = os.environ.get("TORCH_DISTRIBUTED_DEBUG", "").upper() != "DETAIL"
        longest = timedelta(seconds=within_s + AFTER_DEADLINE_S)
        forming = min(asked, longest) if adjustable else asked
        dist.init_process_group(
            backend=plan.backend, timeout=forming, **_endpoint(launched, prefix, forming)
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

    def creation_progress(self) -> CreationProgress | None:
        """As the hook on `new_group` has journaled its calls."""
        agent = core.current()
        if agent is None:
            return None
        call = agent.retained.newest(GroupCalled)
        if call is None:
            return CreationProgress()
        step = f"new_group #{call.number}"
        return CreationProgress(
            number=call.number,
            inside=any(begun.name == step for begun in agent.retained.all(StepStarted)),
            pg_desc=call.pg_desc,
            members=call.members,
            site=call.site,
        )

    def undo(self) -> None:
        """Destroys what was built on top, the last first, then the default group."""
        import torch.distributed as dist

        if not dist.is_initialized():
            return
        for builder in reversed(self.builders):
            builder.undo()
        dist.destroy_process_group()


def _wait_for(work: Any, within_s: float) -> None:
    """Like `work.wait(timeout)`, which polls only every 50 ms for gloo."""
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


def _endpoint(launched: Launched, prefix: str, timeout: timedelta) -> dict[str, Any]:
    """The arguments of `init_process_group` for this rank and its endpoint."""
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
    # Where each rank sees only one GPU, that GPU is number 0.
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
    if backend == "xla":
        importlib.import_module("torch_xla.distributed.xla_backend")
    if not hasattr(dist.Backend, backend.upper()):
        known = ", ".join(dist.Backend.backend_list)
        fix = f"It knows {known}; a plugin must be imported first."
        return f"torch knows no backend {backend!r}", fix
    return None
