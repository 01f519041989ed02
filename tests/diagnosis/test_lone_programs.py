"""A program that is no rank and reports nothing: only what it does itself shows that it hangs."""

from __future__ import annotations

import msgspec
import pytest

from distwatch.diagnosis.facts.process_roles import role_text
from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from distwatch.state.identity import Identity
from tests.diagnosis.recorded import HOST, SECOND, RecordedJob, frame

FRAMES = (
    ev.Frame(file="/job/convert.py", line=8, function="<module>"),
    ev.Frame(file="/usr/lib/python3.11/threading.py", line=327, function="Condition.wait"),
)
CHILD = f"{HOST}-77.5"


class Program(RecordedJob):
    """One process of role `other`, and a child of it."""

    def __init__(self, last_s: float, **sample: object) -> None:
        super().__init__(1)
        for key, pid, ppid, role in ((self.key(0), 1000, 999, "other"), (CHILD, 77, 1000, "child")):
            sighted = ev.ProcessSighted(
                process=key,
                host=HOST,
                pid=pid,
                start_ticks=5,
                ppid=ppid,
                role=role,
                identity=Identity(),
                instrumented=role == "other",
            )
            self.see(0.0, sighted)
        self.sample(0, 1.0, "S", syscall="futex", **sample)
        for at in (2.0, last_s):
            self.sample(0, at, "S", syscall="futex", **sample)
            self.stack(0, at, FRAMES, {"unchanged_since_ns": 2 * SECOND})


def told(job: Program) -> list[tuple[str, tuple[int, ...]]]:
    return [(finding.code, finding.culprit_ranks) for finding in diagnose(job.state)]


def test_a_program_that_waits_for_a_lock_for_a_whole_deadline_hangs() -> None:
    assert told(Program(400.0)) == [("process.lock_wait", ())]
    assert told(Program(100.0)) == [], "within the deadline of a wait"


def test_a_child_that_was_killed_is_told_at_once() -> None:
    job = Program(20.0)
    job.see(4.0, ev.ExitSeen(process=CHILD, signal=9, how="pidfd"))
    (finding,) = diagnose(job.state)
    assert (finding.code, finding.severity) == ("process.worker_died", "hang")
    assert "child process pid 77, killed by SIGKILL" in finding.summary
    assert finding.summary.startswith("the program with pid 1000")


def test_a_child_that_ended_well_or_was_asked_to_end_explains_nothing() -> None:
    for ended in ({"exit_code": 0}, {"exit_code": 3}, {"signal": 15}):
        job = Program(20.0)
        job.see(4.0, ev.ExitSeen(process=CHILD, how="pidfd", **ended))
        assert told(job) == [], ended


def test_a_server_that_waits_for_requests_is_idle() -> None:
    job = Program(400.0, blocked_on="socket listening on 0.0.0.0:80")
    job.sample(0, 401.0, "S", syscall="poll", blocked_on="socket listening on 0.0.0.0:80")
    assert told(job) == []


RAY = "/venv/lib/python3.11/site-packages/ray"


@pytest.mark.parametrize(
    ("command", "frames", "role"),
    [
        (("python", f"{RAY}/_private/workers/default_worker.py"), ("main_loop", "actor_method_executor"), "actor"),
        (("python", f"{RAY}/_private/workers/default_worker.py"), ("main_loop",), "child process"),
        (("ray::Trainer.fit",), ("main_loop",), "actor"),
        (("python", "/job/ray/driver.py"), ("get_objects",), "no rank yet"),
    ],
)  # fmt: skip
def test_what_a_process_of_ray_is_without_an_agent_in_it(
    command: tuple[str, ...], frames: tuple[str, ...], role: str
) -> None:
    job = RecordedJob(1)
    sighted = ev.ProcessSighted(
        process=job.key(0), host=HOST, pid=1000, start_ticks=5, ppid=1, role="other",
        identity=Identity(), command=command,
    )  # fmt: skip
    job.see(1.0, sighted)
    job.stack(0, 2.0, tuple(frame(one, f"{RAY}/worker.py") for one in frames))
    # What a reader makes of the start record alone comes later, and knows less.
    job.see(3.0, msgspec.structs.replace(sighted, command=()))
    (process,) = job.state.processes.values()
    assert role_text(job.state, process) == role
    if role == "no rank yet":
        raylet = msgspec.structs.replace(
            sighted, process="node1-7.1", pid=7, ppid=1000, command=(f"{RAY}/core/src/ray/raylet/raylet",)
        )  # fmt: skip
        job.see(4.0, raylet)
        assert role_text(job.state, process) == "driver"
