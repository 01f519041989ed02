"""device.lost, memory_error, xid: what the driver reports about a rank's device."""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.diagnosis.facts.case import Case
from distwatch.diagnosis.facts.xids import Fault, xid_of
from distwatch.state.events import Device
from distwatch.state.finding import Evidence, Finding, Severity
from distwatch.state.rank_sets import name_ranks

_CODES: dict[Fault, str] = {
    "lost": "device.lost",
    "memory": "device.memory_error",
    "device": "device.xid",
    "program": "device.xid",
}
_WORST: tuple[Fault, ...] = ("lost", "memory", "device", "program")


class DeviceFailed:
    """The worst event of each device, where ranks have ended or wait."""

    def find(self, case: Case) -> Iterable[Finding]:
        for name, host in case.state.hosts.items():
            if not case.job.ranks_on(name):
                continue
            for device in host.devices.devices if host.devices else ():
                if worst := _worst(device):
                    yield from self._of_device(case, name, device, worst)

    def _of_device(
        self, case: Case, host: str, device: Device, worst: tuple[int, Fault]
    ) -> Iterable[Finding]:
        number, fault = worst
        pids = {use.pid for use in device.processes}
        ranks = tuple(r for r, p in case.job.ranks_on(host).items() if p.pid and p.pid in pids)
        if fault == "program" and case.deaths.own:
            return  # its own exception says more
        affected = set(case.deaths.victims) | set(case.deaths.own)
        affected |= {wait.global_rank for wait in case.job.waits if wait.overdue}
        severity: Severity = "warning"
        if affected:
            severity = "crash" if case.deaths.own or case.deaths.victims else "hang"
        said = xid_of(number)
        title = device.name or f"device {device.index}"
        of = f", the device of {name_ranks(ranks)}" if ranks else ""
        yield Finding(
            code=_CODES[fault],
            severity=severity,
            culprit_ranks=ranks,
            waiting_ranks=tuple(sorted(affected - set(ranks))),
            summary=f"the driver reports Xid {number} ({said.meaning}) for {title} on {host}{of}",
            advice=f"{said.action[:1].upper()}{said.action[1:]}.",
            evidence=(
                Evidence("proc", f"{title} on {host}: Xid {', '.join(map(str, device.xid))}"),
                *(case.place(rank) for rank in ranks[:4]),
            ),
            confidence=0.9 if ranks else 0.7,
        )


def _worst(device: Device) -> tuple[int, Fault] | None:
    told = [(number, xid_of(number).fault) for number in device.xid]
    told = [(number, fault) for number, fault in told if fault in _WORST]
    return min(told, key=lambda one: _WORST.index(one[1]), default=None)
