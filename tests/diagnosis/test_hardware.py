"""Devices and network ports that fail: who is named, and when nothing is said."""

from __future__ import annotations

import pytest

from distwatch.state import events as ev
from tests.diagnosis.recorded import (
    HOST,
    PEER_LOST,
    RecordedJob,
    hung_job,
    judged,
    only_root,
    root,
)


def running_job() -> RecordedJob:
    job = RecordedJob(4)
    job.initialize(0, 1, 2, 3)
    for rank in range(4):
        job.pulse(rank, at=30.0, groups={"0": (9, 9, 29.9)})
    return job


def driver_says(job: RecordedJob, *xids: int, pid: int = 1002, at: float = 30.0) -> None:
    device = ev.Device(index=2, name="GPU 0000:b3:00", xid=xids, processes=(ev.DeviceUse(pid=pid),))
    job.see(at, ev.DevicesSampled(host=HOST, devices=(device,)))


def port_fails(job: RecordedJob, at: float, *, decides: bool = True) -> None:
    text = "Port module event[error]: module 0, Cable error"
    job.see(at, ev.PortErrorSeen(host=HOST, port="mlx5_2:1", text=text, decides=decides))


@pytest.mark.parametrize(
    ("xids", "code"),
    [
        ((79,), "device.lost"),
        ((45, 48), "device.memory_error"),
        ((74,), "device.xid"),
        ((31, 79), "device.lost"),
    ],
)
def test_the_worst_event_of_a_device_explains_the_rank_that_uses_it(
    xids: tuple[int, ...], code: str
) -> None:
    job = hung_job()
    driver_says(job, *xids)
    finding = only_root(job, code, 2)
    assert "GPU 0000:b3:00" in finding.summary
    assert set(finding.waiting_ranks) == {0, 1, 3}


@pytest.mark.parametrize("xids", [(45,), (63,), (92,)])
def test_consequences_and_notices_are_no_findings(xids: tuple[int, ...]) -> None:
    job = hung_job()
    driver_says(job, *xids)
    assert root(judged(job)).code == "collective.rank_missing"


def test_a_rank_whose_own_kernel_failed_is_named_by_its_exception() -> None:
    job = running_job()
    driver_says(job, 31)
    job.fail(2, 30.5, "RuntimeError", "CUDA error: an illegal memory access was encountered")
    assert root(judged(job)).code == "process.exited"


def test_a_device_of_nobody_names_no_rank() -> None:
    job = hung_job()
    driver_says(job, 79, pid=77)
    finding = root(judged(job))
    assert (finding.code, finding.culprit_ranks) == ("device.lost", ())
    assert finding.confidence < 0.9


def test_a_job_that_moves_is_only_warned_of_its_device() -> None:
    job = running_job()
    driver_says(job, 79)
    assert [f.severity for f in judged(job)] == ["warning"]


def test_a_failed_port_explains_ranks_that_lost_each_other() -> None:
    job = running_job()
    port_fails(job, 30.0)
    for rank in range(4):
        job.fail(rank, 31.0, "RuntimeError", PEER_LOST)
    finding = root(judged(job))
    assert (finding.code, finding.culprit_ranks) == ("network.link_error", ())
    assert "mlx5_2:1" in finding.summary
    assert finding.severity == "crash"


def test_a_failed_port_of_a_job_that_moves_is_no_finding() -> None:
    job = running_job()
    port_fails(job, 20.0)
    assert judged(job) == []


@pytest.mark.parametrize("decides", [True, False])
def test_failed_transfers_to_a_rank_that_ended_are_its_consequence(decides: bool) -> None:
    job = running_job()
    port_fails(job, 30.2, decides=decides)
    job.fail(1, 30.0, "ValueError", "mine")
    for rank in (0, 2, 3):
        job.fail(rank, 31.0, "RuntimeError", PEER_LOST)
    finding = root(judged(job))
    assert (finding.code, finding.culprit_ranks) == ("process.exited", (1,))
