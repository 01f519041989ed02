"""load.offloaded, meta_leaked, device_map_conflict, memory_exceeds: models whose placement causes trouble."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.state.finding import Evidence, Finding
from distwatch.state.loads import Placement
from distwatch.state.model import ModelLoad, Process
from distwatch.state.quantities import bytes_text
from distwatch.state.rank_sets import name_ranks, ranks_by

OFFLOADED = ("ram", "disk")
_NAMES_SHOWN = 4


class ModelsPlaced:
    """Parameters that are not where later code looks for them."""

    def find(self, case: Case) -> Iterable[Finding]:
        offloaded: dict[str, list[tuple[int, ModelLoad]]] = {}
        leaked: dict[str, list[tuple[int, ModelLoad]]] = {}
        for rank, load in _placed(case):
            placement = load.placement
            if placement is None:
                continue
            if any(placement.bytes_on(place) for place in OFFLOADED):
                offloaded.setdefault(_offload_text(placement), []).append((rank, load))
            if placement.leaked_count:
                leaked.setdefault(_leak_text(placement), []).append((rank, load))
        for text, loads in offloaded.items():
            yield _offloaded(case, text, loads)
        for text, loads in leaked.items():
            yield _leaked(text, loads)


def _placed(case: Case) -> Iterable[tuple[int, ModelLoad]]:
    """The newest load of each rank that succeeded."""
    for rank, process in case.job.ranks.items():
        done = [load for load in process.loads.values() if load.placement is not None]
        if done and (process.ended_ns is None or process.exception is not None):
            yield rank, max(done, key=lambda load: load.step)


def _offload_text(placement: Placement) -> str:
    parts = []
    for place, word in (("ram", "in RAM"), ("disk", "on disk")):
        if size := placement.bytes_on(place):
            parts.append(f"{bytes_text(size)} {word}")
    places = ", ".join(placement.offload_places)
    return " and ".join(parts) + (f" ({places})" if places else "")


def _leak_text(placement: Placement) -> str:
    shown = ", ".join(placement.leaked[:_NAMES_SHOWN])
    more = placement.leaked_count - min(_NAMES_SHOWN, len(placement.leaked))
    return f"{shown}{f' and {more} more' if more > 0 else ''}"


def _offloaded(case: Case, text: str, loads: list[tuple[int, ModelLoad]]) -> Finding:
    ranks = tuple(rank for rank, _ in loads)
    load = loads[0][1]
    trains = (case.job.world or 1) > 1
    return Finding(
        code="load.offloaded",
        # A single process that only generates works like this, slowly; DDP, FSDP and optimizers do not.
        severity="warning" if trains else "info",
        culprit_ranks=ranks,
        summary=f"{name_ranks(ranks, 'holds', 'hold')} parts of {load.arguments.checkpoint or 'a model'} "
        f"off the device: {text}; those parameters are on `meta`, and a hook loads them at every forward",
        evidence=tuple(_placement_evidence(rank, one.placement) for rank, one in loads[:8]),
        confidence=0.95,
    )


def _leaked(text: str, loads: list[tuple[int, ModelLoad]]) -> Finding:
    ranks = tuple(rank for rank, _ in loads)
    load = loads[0][1]
    count = load.placement.leaked_count if load.placement else 0
    return Finding(
        code="load.meta_leaked",
        severity="warning",
        culprit_ranks=ranks,
        summary=f"{name_ranks(ranks)} loaded {load.arguments.checkpoint or 'a model'}, and {count} of its "
        f"parameters are still on `meta` and nothing will load them: {text}",
        evidence=tuple(_placement_evidence(rank, one.placement) for rank, one in loads[:8]),
        confidence=0.95,
    )


def _placement_evidence(rank: int, placement: Placement | None) -> Evidence:
    devices = placement.devices if placement else ()
    held = ", ".join(f"{d.device}: {bytes_text(d.parameters + d.buffers)}" for d in devices)
    return Evidence("journal", f"parameters and buffers by device: {held}", rank)


class DeviceMapsConflict:
    """A map that splits the model although every device has a rank; or maps that differ."""

    def find(self, case: Case) -> Iterable[Finding]:
        if (case.job.world or 1) < 2:
            return
        placed = dict(_placed(case))
        split = {rank: load for rank, load in placed.items() if _is_split(load)}
        shared = {rank: load for rank, load in split.items() if _shares(case, rank, placed)}
        if shared:
            yield _model_parallel(shared)
        yield from _differing({rank: placed[rank] for rank in placed if rank not in split})
        yield from _sharing(case, set(placed))


def _accelerators(placement: Placement) -> list[str]:
    kinds = ((d.device, d.device.partition(":")[0]) for d in placement.devices)
    return [device for device, kind in kinds if kind not in ("cpu", "meta", *OFFLOADED)]


def _is_split(load: ModelLoad) -> bool:
    if not load.arguments.spreads or load.arguments.parallel_plan or load.placement is None:
        return False
    return len(_accelerators(load.placement)) > 1


def _shares(case: Case, rank: int, placed: dict[int, ModelLoad]) -> bool:
    """Whether another rank of its host has its model on one of the same devices."""
    host = case.job.ranks[rank].host
    others = (r for r in placed if r != rank and case.job.ranks[r].host == host)
    mine = _devices_of(placed[rank])
    return any(mine & _devices_of(placed[other]) for other in others)


def _devices_of(load: ModelLoad) -> set[str]:
    return set(_accelerators(load.placement)) if load.placement else set()


def _model_parallel(split: dict[int, ModelLoad]) -> Finding:
    ranks, load = tuple(split), next(iter(split.values()))
    devices = ", ".join(_accelerators(load.placement)) if load.placement else ""
    return Finding(
        code="load.device_map_conflict",
        severity="warning",
        culprit_ranks=ranks,
        summary=f"{name_ranks(ranks)} loaded {load.arguments.checkpoint} with device_map="
        f"{load.arguments.device_map!r}, which splits it over {devices}: in a job with one rank per device, "
        "all ranks use the same devices",
        evidence=tuple(_placement_evidence(rank, one.placement) for rank, one in list(split.items())[:8]),
        confidence=0.9,
    )  # fmt: skip


def _differing(placed: dict[int, ModelLoad]) -> Iterable[Finding]:
    """Ranks that place one checkpoint differently: what is on one rank's device is not on another's."""
    by_checkpoint: dict[str, dict[int, ModelLoad]] = {}
    for rank, load in placed.items():
        if load.arguments.checkpoint and not load.arguments.parallel_plan:
            by_checkpoint.setdefault(load.arguments.checkpoint, {})[rank] = load
    for checkpoint, loads in by_checkpoint.items():
        by_map = ranks_by({rank: _kinds(load.placement) for rank, load in loads.items()})
        if len(by_map) < 2:
            continue
        largest = max(by_map.values(), key=lambda ranks: (len(ranks), -ranks[0]))
        tie = sum(len(ranks) == len(largest) for ranks in by_map.values()) > 1
        odd = sorted(
            rank for ranks in by_map.values() if tie or ranks is not largest for rank in ranks
        )
        told = "; ".join(
            f"{name_ranks(ranks)}: {_map_text(loads[ranks[0]].placement)}"
            for ranks in by_map.values()
        )
        yield Finding(
            code="load.device_map_conflict",
            severity="warning",
            culprit_ranks=tuple(odd),
            summary=f"the ranks place {checkpoint} differently: {told}",
            advice="device_map='auto' depends on the free memory at that moment: give all ranks the same "
            "map, or the same max_memory.",
            evidence=tuple(_placement_evidence(ranks[0], loads[ranks[0]].placement) for ranks in by_map.values()),
            confidence=0.6 if tie else 0.8,
        )  # fmt: skip


def _kinds(placement: Placement | None) -> tuple[tuple[str, str], ...]:
    """The map without device numbers, which differ between ranks."""
    modules = placement.modules if placement else ()
    return tuple((entry.module, entry.device.partition(":")[0]) for entry in modules)


def _map_text(placement: Placement | None) -> str:
    devices = placement.devices if placement else ()
    held = {d.device.partition(":")[0]: d.parameters for d in devices if d.parameters}
    return ", ".join(f"{bytes_text(size)} on {device}" for device, size in held.items())


def _sharing(case: Case, placed: set[int]) -> Iterable[Finding]:
    """Ranks of one host on one accelerator, by the driver's table of processes."""
    for host in case.state.hosts.values():
        here = case.job.ranks_on(host.host)
        ranks = {p.pid: r for r, p in here.items() if r in placed}
        for device in host.devices.devices if host.devices else ():
            on_it = sorted({ranks[use.pid] for use in device.processes if use.pid in ranks})
            if len(on_it) < 2:
                continue
            yield Finding(
                code="load.device_map_conflict",
                severity="warning",
                culprit_ranks=tuple(on_it),
                summary=f"{name_ranks(on_it)} have their models on one device, number {device.index} of {host.host}"
                f"{f' ({device.name})' if device.name else ''}",
                advice="Call torch.cuda.set_device(local_rank) before anything uses the device, and load with "
                "device_map={'': local_rank}.",
                evidence=(
                    Evidence("proc", f"processes on it: {[use.pid for use in device.processes]}"),
                ),
                confidence=0.7,
            )  # fmt: skip


class MemoryExceeded:
    """load.memory_exceeds: every rank of a host reads the whole checkpoint into host memory."""

    def find(self, case: Case) -> Iterable[Finding]:
        for host in case.state.hosts.values():
            if host.sample is None:
                continue
            limit = host.sample.cgroup_limit or host.sample.memory_total
            here = case.job.ranks_on(host.host)
            sizes = {rank: size for rank, p in here.items() if (size := _host_bytes(p))}
            needed = sum(sizes.values())
            # Ranks that have loaded and still live were within the limit, or have moved their models.
            if limit and needed > limit and any(_is_loading(here[rank]) for rank in sizes):
                yield _exceeds(
                    host.host, sizes, needed, limit, host.sample.cgroup_limit is not None
                )


def _is_loading(process: Process) -> bool:
    newest = max(process.loads)
    return newest in process.steps and process.steps[newest].ended_ns is None


def _host_bytes(process: Process) -> int:
    """Bytes of checkpoint that a rank has in host memory at the end of its newest load."""
    newest = max(process.loads.values(), key=lambda load: load.step, default=None)
    if newest is None or process.ended_ns is not None or newest.arguments.parallel_plan:
        return 0
    if newest.placement is not None:
        return newest.placement.bytes_on("cpu") + newest.placement.bytes_on("ram")
    if newest.arguments.device_map not in ("", "cpu", "{'': 'cpu'}"):
        return 0  # each tensor goes to a device at once
    below = [s for s in process.steps.values() if s.parent == newest.step and s.bytes_total]
    return max((step.bytes_total or 0 for step in below), default=0)


def _exceeds(host: str, sizes: dict[int, int], needed: int, limit: int, by_cgroup: bool) -> Finding:
    ranks = tuple(sorted(sizes))
    each = bytes_text(max(sizes.values()))
    word = "its cgroup allows" if by_cgroup else "it has"
    return Finding(
        code="load.memory_exceeds",
        severity="warning",
        culprit_ranks=ranks,
        summary=f"{name_ranks(ranks, 'loads', 'load')} {len(ranks)} × {each} = {bytes_text(needed)} into the "
        f"host memory of {host}, but {word} {bytes_text(limit)}: the kernel will kill one of them",
        evidence=(
            Evidence(
                "proc",
                f"{'cgroup limit' if by_cgroup else 'memory'} of {host}: {bytes_text(limit)}",
            ),
            Evidence("journal", f"checkpoint bytes by rank: {sizes}"),
        ),
        confidence=0.9,
    )
