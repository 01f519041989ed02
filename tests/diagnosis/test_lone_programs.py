"""A program that is no rank and reports nothing: only what it does itself shows that it hangs."""

from __future__ import annotations

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.state import events as ev
from distwatch.state.identity import Identity
from tests.diagnosis.recorded import HOST, SECOND, RecordedJob

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
