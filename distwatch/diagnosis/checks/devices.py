"""device.lost, memory_error, xid: what the driver reports about a rank's device; and what slows one down."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.device_faults import (
    DeviceFault,
    device_of,
    faults_of,
    slowed_by,
    title_of,
    worst_fault,
)
from distwatch.diagnosis.facts.xids import Fault
from distwatch.state.events import Device
from distwatch.state.finding import Evidence, Finding, Severity
from distwatch.state.rank_sets import name_ranks

_CODES: dict[Fault, str] = {
    "lost": "device.lost",
    "memory": "device.memory_error",
    "device": "device.xid",
    "program": "device.xid",
}


class DeviceFailed:
    """The worst event of each device, where ranks have ended or wait."""

    def find(self, case: Case) -> Iterable[Finding]:
        for name, host in case.state.hosts.items():
            if not case.job.ranks_on(name):
                continue
            for device in host.devices.devices if host.devices else ():
                if worst := worst_fault(device):
                    yield from self._of_device(case, name, device, worst)

    def _of_device(
        self, case: Case, host: str, device: Device, worst: DeviceFault
    ) -> Iterable[Finding]:
        pids = {use.pid for use in device.processes}
        ranks = tuple(r for r, p in case.job.ranks_on(host).items() if p.pid and p.pid in pids)
        if worst.fault == "program" and case.deaths.own:
            return  # its own exception says more
        affected = set(case.deaths.victims) | set(case.deaths.own)
        affected |= {wait.global_rank for wait in case.job.waits if wait.overdue}
        severity: Severity = "warning"
        if affected and worst.is_new:
            severity = "crash" if case.deaths.own or case.deaths.victims else "hang"
        title = title_of(device)
        of = f", the device of {name_ranks(ranks)}" if ranks else ""
        yield Finding(
            code=_CODES[worst.fault],
            severity=severity,
            culprit_ranks=ranks,
            waiting_ranks=tuple(sorted(affected - set(ranks))) if worst.is_new else (),
            summary=f"the driver reports {worst.what} for {title} on {host}{of}",
            advice=worst.advice,
            evidence=(
                *(
                    Evidence("proc", f"{title} on {host}: {fault.what}")
                    for fault in faults_of(device)
                ),
                *(case.place(rank) for rank in ranks[:4]),
            ),
            confidence=0.9 if ranks else 0.7,
        )


class DeviceSlowed:
    """collective.straggler, as a warning: heat or power slows one rank's device, and all ranks wait for it."""

    def find(self, case: Case) -> Iterable[Finding]:
        # Only where calls run on devices does each of them wait for the slowest device.
        for rank in case.job.device.queues if len(case.job.device.queues) > 1 else ():
            device = device_of(case.job, rank)
            if device is None or not (why := slowed_by(case.job, rank)):
                continue
            title = f"{title_of(device)} on {case.job.ranks[rank].host}"
            others = tuple(r for r in case.job.device.queues if r != rank)
            yield Finding(
                code="collective.straggler",
                severity="warning",
                culprit_ranks=(rank,),
                waiting_ranks=others,
                summary=f"the device of rank {rank}, {title}, has been slowed down for "
                f"{device.throttled_s:.0f} s ({why}), and no other rank's device is: each collective "
                "waits for it",
                advice="Look at the cooling and power of that host (`nvidia-smi -q -d PERFORMANCE`).",
                evidence=(Evidence("proc", f"{title}: {why}", rank), case.place(rank)),
                confidence=0.7,
            )
