"""View 4: devices, hosts with memory and cgroup, processes with their children."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from distwatch.state.events import Device
from distwatch.state.host import Host
from distwatch.state.model import Process
from distwatch.tui.cells import fit, format_bytes, share_cell
from distwatch.tui.picture import Picture
from distwatch.tui.styles import FAINT, MUTED, RED, STRONG, UNKNOWN, YELLOW
from distwatch.tui.trends import Trends
from distwatch.tui.views.line import Line, lines_about, part_key
from distwatch.tui.views.sparkline import sparkline
from distwatch.tui.visible_text import Text
from distwatch.views.ray_rows import ray_rows

EMPTY = "no hosts seen yet"
_DEPTH_LIMIT = 16
_PROCESS_TITLES = (
    f"  {'PROCESS':<22} {'PID':>7}  {'ST':<2} {'CPU':>7} {'MEMORY':>9} {'THR':>4}  WAITS IN"
)


def lines(picture: Picture, trends: Trends | None = None) -> list[Line]:
    """For each host: the machine, its devices, and the run's processes there as a tree."""
    found: list[Line] = []
    ranks = picture.ranks_by_process()
    for name, host in sorted(picture.state.hosts.items()):
        processes = [p for p in picture.state.processes.values() if p.host == name]
        here = tuple(ranks[p.key] for p in processes if p.key in ranks)
        texts = [*host_lines(host, trends), Text(_PROCESS_TITLES, FAINT)]
        found += lines_about(f"host:{name}", (partial(fit, text) for text in texts), here)
        found += _process_lines(processes, ranks)
    return [*found, *_ray_lines(picture)]


def _ray_lines(picture: Picture) -> list[Line]:
    """What is wrong in the run's Ray cluster; nothing where all is well."""
    rows = ray_rows(picture.state)
    head = partial(fit, Text("Ray", STRONG))
    found = [Line(part_key(f"ray:{row.id}", "heading"), head) for row in rows[:1]]
    for row in rows:
        rank = "" if row.global_rank is None else f" rank {row.global_rank}"
        text = Text.assemble(
            (f"  {row.kind:<16}", MUTED),
            f"{row.name}{rank}  ",
            (row.state, YELLOW),
            f"  {row.text}",
        )
        ranks = None if row.global_rank is None else (row.global_rank,)
        found.append(Line(f"ray:{row.id}", partial(fit, text), ranks))
    return found


def host_lines(host: Host, trends: Trends | None = None) -> list[Text]:
    """The machine: load, memory, cgroup, devices, and what was not observed."""
    return [_host_line(host), *_memory_lines(host), *_device_lines(host, trends)]


def _host_line(host: Host) -> Text:
    sample = host.sample
    load = f"load {sample.load:.1f}" if sample and sample.load is not None else "load not observed"
    cpus = f" on {sample.cpus} CPUs" if sample and sample.cpus else ""
    return Text.assemble((host.host, STRONG), (f"  {load}{cpus}", MUTED))


def _memory_lines(host: Host) -> Iterator[Text]:
    sample = host.sample
    if sample is None:
        yield Text("  memory   not observed", FAINT)
        return
    used = sample.memory_total - sample.memory_available
    yield Text.assemble(("  memory   ", MUTED), share_cell(used, sample.memory_total or None))
    if sample.cgroup_limit is not None:
        yield Text.assemble(
            ("  cgroup   ", MUTED), share_cell(sample.cgroup_used, sample.cgroup_limit)
        )
    else:
        used_text = f", {format_bytes(sample.cgroup_used)} used" if sample.cgroup_used else ""
        yield Text.assemble(("  cgroup   ", MUTED), f"no limit{used_text}")
    if sample.oom_kills:
        yield Text(f"  ▲ {sample.oom_kills} processes killed by the OOM killer", f"bold {RED}")


def _device_lines(host: Host, trends: Trends | None) -> Iterator[Text]:
    if host.devices is None or host.devices.not_observed:
        why = host.devices.not_observed if host.devices else "no sample yet"
        yield Text.assemble(("  devices  ", MUTED), (f"not observed: {why}", FAINT))
    for device in host.devices.devices if host.devices else ():
        yield _device_line(device, trends.device(host.host, device.index) if trends else ())
    for what, why in sorted(host.not_observed.items()):
        yield Text(f"  {what:<8} not observed: {why}", FAINT)


def _device_line(device: Device, used: Sequence[float]) -> Text:
    use = UNKNOWN if device.utilization is None else f"{device.utilization}%"
    heat = "" if device.temperature_c is None else f"  {device.temperature_c} °C"
    line = Text.assemble(
        (f"  device {device.index} ", MUTED), device.name or "unnamed", f"  {use:>4} busy  ",
        share_cell(device.memory_used, device.memory_total), (heat, MUTED),
    )  # fmt: skip
    if used:
        line.append("  ").append_text(sparkline(used, 100.0))
    if device.throttle:
        line.append(f"  ▲ throttled: {', '.join(device.throttle)}", YELLOW)
    if device.ecc_uncorrected:
        line.append(f"  ▲ {device.ecc_uncorrected} uncorrected ECC errors", f"bold {RED}")
    if device.lost:
        line.append("  ▲ lost", f"bold {RED}")
    if device.links_down:
        down = ", ".join(map(str, device.links_down))
        line.append(f"  ▲ NVLink {down} down", f"bold {RED}")
    if device.link_errors:
        counted = ", ".join(f"{number} {word}" for word, number in device.link_errors.items())
        line.append(f"  ▲ NVLink: {counted}", YELLOW)
    if device.xid:
        line.append(f"  ▲ XID {', '.join(map(str, device.xid))}", f"bold {RED}")
    return line


def _process_lines(processes: list[Process], ranks: dict[str, int]) -> Iterator[Line]:
    by_pid = {process.pid: process for process in processes}
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.ppid if process.ppid in by_pid else 0, []).append(process)
    seen: set[str] = set()
    roots = _ordered(children.get(0, []), ranks)
    todo: list[tuple[Process, int, int | None]] = [(p, 0, None) for p in reversed(roots)]
    while todo:
        process, depth, owner = todo.pop()
        if process.key in seen or depth > _DEPTH_LIMIT:
            continue
        seen.add(process.key)
        rank = ranks.get(process.key)
        owner = rank if rank is not None else owner
        yield Line(
            key=f"rank:{rank}" if rank is not None else f"process:{process.key}",
            draw=partial(_process_line, process, rank, depth),
            ranks=() if owner is None else (owner,),
        )
        below = _ordered(children.get(process.pid, []), ranks)
        todo += [(child, depth + 1, owner) for child in reversed(below)]


def _ordered(processes: list[Process], ranks: dict[str, int]) -> list[Process]:
    return sorted(processes, key=lambda p: (p.role != "launcher", ranks.get(p.key, 1 << 30), p.pid))


def _process_line(process: Process, rank: int | None, depth: int, width: int) -> Text:
    name = f"rank {rank}" if rank is not None else process.role
    sample = process.outside.sample
    ended = process.ended_ns is not None
    state = "X" if ended else sample.state if sample else UNKNOWN
    cpu = UNKNOWN if sample is None or sample.cpu_s is None else f"{sample.cpu_s:.1f} s"
    memory = format_bytes(sample.rss_bytes if sample else None)
    threads = UNKNOWN if sample is None or sample.threads is None else str(sample.threads)
    place = "" if sample is None else sample.blocked_on or sample.wchan or sample.syscall
    line = Text.assemble(
        (f"  {'  ' * depth + name:<22} ", STRONG if rank is not None else ""),
        (f"{process.pid:>7}  ", MUTED), (f"{state:<2} ", RED if state in "TDXZ" else MUTED),
        (f"{cpu:>7} {memory:>9} {threads:>4}  ", MUTED), place or UNKNOWN,
    )  # fmt: skip
    return fit(line, width)
