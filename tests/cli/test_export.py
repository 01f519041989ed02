"""`distwatch export`: what Perfetto, speedscope and Prometheus are given, read by other code than ours."""

from __future__ import annotations

import json
import os
import stat
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from distwatch.runfolder import RunFolder, start_ticks
from distwatch.state import events as ev
from distwatch.state.recorder_entries import Collective
from tests.cli.runs import call, distwatch, rings, save
from tests.cli.test_stacks import is_speedscope
from tests.diagnosis.recorded import SECOND, RecordedJob, hung_job, judged

Samples = dict[str, list[tuple[dict[str, str], float]]]


def metrics(root: Path, run: str = "r") -> Samples:
    done = call("export", run, "-o", "prometheus", root=root)
    assert done.exception is None, done.exception
    found: Samples = defaultdict(list)
    for family in text_string_to_metric_families(done.stdout):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            found[sample.name].append((dict(sample.labels), sample.value))
    return found


def trace(root: Path, run: str = "r") -> list[dict[str, Any]]:
    """The events, after every rule of the trace-event format that applies to them was checked."""
    done = call("export", run, root=root)
    assert done.exception is None, done.exception
    document = json.loads(done.stdout)
    assert document["schema"] == "distwatch.trace/1"
    assert document["otherData"]["run"] == run
    by_track: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in document["traceEvents"]:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ph"] in "MXiC"
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert event["args"]["name"]
            continue
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            track = by_track[event["pid"], event["tid"]]
            track.append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
        else:
            assert event["s"] in "gpt"
    for spans in by_track.values():
        for begin, end in spans:
            for other_begin, other_end in spans:
                # Beside each other, or one within the other.
                assert not begin < other_begin < end < other_end
    return document["traceEvents"]


def of_process(events: list[dict[str, Any]], title: str) -> list[dict[str, Any]]:
    (number,) = {
        event["pid"]
        for event in events
        if event["name"] == "process_name" and event["args"]["name"].startswith(title)
    }
    return [event for event in events if event["pid"] == number and event["ph"] != "M"]


def tracks(events: list[dict[str, Any]]) -> set[str]:
    return {event["args"]["name"] for event in events if event["name"] == "thread_name"}


# ---- Prometheus ------------------------------------------------------------------------------


def test_metrics_of_a_hang(root: Path) -> None:
    save(hung_job(), root, "r")
    found = metrics(root)
    run = {"run": "r"}
    assert found["distwatch_findings"] == [
        ({**run, "code": "collective.rank_missing", "severity": "hang", "role": "root"}, 1)
    ]
    assert found["distwatch_run_blocked"] == [(run, 1)]
    states = {labels["state"]: value for labels, value in found["distwatch_ranks"]}
    assert (states["waiting"], states["running"], states["killed"]) == (3, 1, 0)
    group = {**run, "pg_name": "0", "pg_desc": "default_pg", "members": "0-3"}
    entered = {labels["global_rank"]: n for labels, n in found["distwatch_collective_enqueued"]}
    assert entered == {"0": 5, "1": 5, "2": 4, "3": 5}
    assert ({**group, "global_rank": "2"}, 4) in found["distwatch_collective_completed"]
    assert found["distwatch_collective_waited_seconds"] == [({**group, "op": "all_reduce"}, 20)]
    ages = {labels["global_rank"]: s for labels, s in found["distwatch_rank_heartbeat_age_seconds"]}
    assert set(ages) == {"0", "1", "2", "3"}
    for name in ("hosts_seen", "hosts_expected"):
        assert found[f"distwatch_{name}"] == [(run, 1)]
    assert found["distwatch_ranks_expected"] == found["distwatch_ranks_observed"] == [(run, 4)]


def test_what_is_not_known_has_no_sample(root: Path) -> None:
    job = RecordedJob(3)
    job.initialize(0, 1)
    job.exit(1, 9.0, code=0)
    save(job, root, "r")
    found = metrics(root)
    assert found["distwatch_ranks_expected"] == [({"run": "r"}, 3)]
    assert found["distwatch_ranks_observed"] == [({"run": "r"}, 2)]
    # Nobody saw rank 2, and rank 1 has no heart any more.
    for labels, _ in found["distwatch_rank_heartbeat_age_seconds"]:
        assert labels["global_rank"] == "0"
    assert "distwatch_collective_waited_seconds" not in found


def test_a_number_keeps_all_its_digits(root: Path) -> None:
    job = RecordedJob(1)
    job.initialize(0)
    done = ev.GroupProgress(pg_name="0", enqueued=123_456_789, completed=123_456_788)
    job.see(5.0, ev.PulseRead(process=job.key(0), pulse=ev.Pulse(beat_ns=5 * 10**9, groups=(done,))))  # fmt: skip
    save(job, root, "r")
    found = metrics(root)
    assert found["distwatch_collective_enqueued"][0][1] == 123_456_789
    assert found["distwatch_collective_completed"][0][1] == 123_456_788


def test_a_name_cannot_break_out_of_its_label(root: Path) -> None:
    rude = 'a"} 1\nevil{x="\\n\\'
    job = hung_job()
    for rank in range(4):
        job.hold(rank, "7", (0, 1, 2, 3), desc=rude)
        job.pulse(rank, at=31.0, groups={"7": (2, 2, 9.0)})
    save(job, root, "r")
    found = metrics(root)
    assert "evil" not in found
    told = {labels.get("pg_desc") for labels, _ in found["distwatch_collective_enqueued"]}
    assert rude in told


# ---- Perfetto --------------------------------------------------------------------------------


def test_a_trace_shows_steps_collectives_and_the_verdict(root: Path) -> None:
    save(hung_job(), root, "r")
    events = trace(root)
    waiting = {event["name"]: event for event in of_process(events, "rank 0 (pid 1000 on node1)")}
    assert {"init_process_group", "all_reduce #5"} <= set(waiting)
    # It entered 8 s after the first event, and the recording ends 20 s later.
    hung = waiting["all_reduce #5"]
    assert (hung["dur"], hung["args"]["ended"]) == (20e6, False)
    assert hung["args"]["group"] == "default_pg"
    culprit = {event["name"]: event for event in of_process(events, "rank 2 ")}
    assert "all_reduce #5" not in culprit
    assert "ended" not in culprit["all_reduce #4"]["args"]
    (verdict,) = of_process(events, "verdict")
    assert (verdict["name"], verdict["s"]) == ("hang: collective.rank_missing", "g")
    assert verdict["args"]["culprit_ranks"] == [2]
    assert "never entered" in verdict["args"]["summary"]
    assert verdict["ts"] == max(event["ts"] + event.get("dur", 0) for event in events if "ts" in event)  # fmt: skip


def test_phases_of_a_load_lie_within_it(root: Path) -> None:
    job = RecordedJob(1)
    job.start(0)
    job.begin(0, 1, "from_pretrained", 2.0, label="org/model")
    job.begin(0, 2, "config", 2.0, parent=1)
    job.say(0, 3.0, ev.StepEnded(step=2))
    job.begin(0, 3, "shards", 3.0, parent=1, total=4)
    job.say(0, 6.0, ev.StepProgressed(step=3, done=2))
    job.say(0, 7.0, ev.StepEnded(step=3, error="OSError: password=hunter2hunter2"))
    job.say(0, 8.0, ev.StepEnded(step=1))
    save(job, root, "r")
    spans = {e["name"]: e for e in of_process(trace(root), "rank 0") if e["ph"] == "X"}
    assert {name: (span["ts"], span["dur"]) for name, span in spans.items()} == {
        "from_pretrained": (0, 6e6),
        "config": (0, 1e6),
        "shards": (1e6, 4e6),
    }
    assert len({span["tid"] for span in spans.values()}) == 1
    assert spans["from_pretrained"]["args"]["label"] == "org/model"
    shards = spans["shards"]["args"]
    assert (shards["done"], shards["total"]) == (2, 4)
    assert shards["error"].startswith("OSError")
    assert "hunter2" not in json.dumps(spans)


def test_what_overlaps_gets_a_track_of_its_own(root: Path) -> None:
    job = RecordedJob(1)
    job.initialize(0)
    operations = (
        ev.Operation(number=1, op="allreduce", pg_name="0", seq=1, entered_ns=3 * 10**9, left_ns=5 * 10**9),
        ev.Operation(number=2, op="allreduce", pg_name="0", seq=2, entered_ns=4 * 10**9, left_ns=6 * 10**9),
        ev.Operation(number=3, op="send", pg_name="0", peer=1, p2p_seq=9, entered_ns=4 * 10**9, left_ns=45 * 10**8),
    )  # fmt: skip
    job.see(6.0, ev.PulseRead(process=job.key(0), pulse=ev.Pulse(), operations=operations))
    save(job, root, "r")
    events = trace(root)
    assert {"collectives", "collectives (2)"} <= tracks(events)
    assert {"all_reduce #1", "all_reduce #2", "send #9"} <= {event["name"] for event in events}


def test_a_trace_holds_more_than_the_state_remembers(root: Path) -> None:
    job = RecordedJob(1)
    job.initialize(0)
    for number in range(100):
        job.begin(0, 10 + number, "barrier", 3.0 + number)
        job.say(0, 3.5 + number, ev.StepEnded(step=10 + number))
        done = ev.Operation(
            number=number + 1, op="allreduce", pg_name="0", seq=number,
            entered_ns=int((3.0 + number) * 10**9), left_ns=int((3.1 + number) * 10**9),
        )  # fmt: skip
        job.see(3.2 + number, ev.PulseRead(process=job.key(0), pulse=ev.Pulse(), operations=(done,)))  # fmt: skip
    save(job, root, "r")
    names = [event["name"] for event in of_process(trace(root), "rank 0")]
    assert names.count("barrier") == 100
    assert {f"all_reduce #{number}" for number in range(100)} <= set(names)


def test_ends_recorders_and_earlier_verdicts_are_instants(root: Path) -> None:
    job = hung_job()
    found = judged(job)
    job.see(31.0, ev.FindingsJudged(host="node1", findings=tuple(found)))
    entry = Collective(pg_name="0", seq=5, op="gloo:all_reduce", created_wall_ns=9 * 10**9)
    job.say(0, 32.0, ev.CollectivesDumped.of("test", (entry,)))
    save(job, root, "r")
    events = trace(root)
    (recorded,) = [event for event in of_process(events, "rank 0") if event["ph"] == "i"]
    assert (recorded["name"], recorded["s"]) == ("all_reduce #5", "t")
    # The verdict that was written then holds still: it is not told twice.
    (verdict,) = of_process(events, "verdict")
    assert verdict["ts"] == 30e6
    job.exit(2, 33.0, signal=9)
    save(job, root, "r")
    events = trace(root)
    (end,) = [event for event in of_process(events, "rank 2") if event["ph"] == "i"]
    assert (end["name"], end["s"]) == ("exit seen", "p")
    assert "SIGKILL" in end["args"]["text"]
    # What ended it later is a symptom: the root that stood stays, with one finding more.
    verdicts = [event["name"] for event in of_process(events, "verdict")]
    assert verdicts == ["hang: collective.rank_missing"] * 2


# ---- speedscope, and the command ---------------------------------------------------------------


def test_stacks_of_all_threads_for_speedscope(root: Path) -> None:
    job = hung_job()
    threads = (
        ev.ThreadStack(name="MainThread", frames=(ev.Frame(function="main", file="a.py"),)),
        ev.ThreadStack(name="loader", frames=(ev.Frame(function="fetch", file="b.py"),)),
    )
    job.see(31.0, ev.StackTaken(process=job.key(0), threads=threads))
    save(job, root, "r")
    done = call("export", "r", "-o", "speedscope", root=root)
    document = json.loads(done.stdout)
    is_speedscope(document)
    assert [profile["name"] for profile in document["profiles"]] == [
        "MainThread, 4 ranks",
        "loader, 1 ranks",
    ]


@pytest.mark.parametrize("output", ["perfetto", "prometheus"])
def test_the_verdict_is_the_exit_code(hung: Path, healthy: Path, output: str) -> None:
    assert call("export", "hung", "-o", output, root=hung).return_value == 3
    assert call("export", "healthy", "-o", output, root=healthy).return_value == 0
    job = RecordedJob(4)
    job.initialize(0, 1)
    save(job, hung, "partial")
    assert call("export", "partial", "-o", output, root=hung).return_value == 6


def test_a_living_run_is_exported_as_it_stands(root: Path) -> None:
    job = RecordedJob(1)
    job.initialize(0)
    me = os.getpid()
    rings(RunFolder(str(root / "r")), job, {0: (me, start_ticks(me))})
    assert dict(metrics(root))["distwatch_ranks_observed"] == [({"run": "r"}, 1)]
    assert of_process(trace(root), f"rank 0 (pid {me} on {os.uname().nodename})")


def test_to_a_file_with_the_real_command(hung: Path, tmp_path: Path) -> None:
    target = tmp_path / "trace.json"
    done = distwatch("export", "hung", "--output", str(target), root=hung)
    assert (done.returncode, done.stdout) == (3, "")
    assert "written to" in done.stderr
    assert json.loads(target.read_text())["traceEvents"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert distwatch("export", "nothing", root=hung).returncode == 5
    assert distwatch("export", "hung", "-o", "pdf", root=hung).returncode == 2


def test_the_steps_of_training_are_slices_and_a_counter(root: Path) -> None:
    job = RecordedJob(1)
    job.initialize(0)
    for at, number in ((10.0, 3), (11.0, 3), (14.0, 7), (16.0, 8)):
        began_ns = int({3: 10, 7: 14, 8: 16}[number] * SECOND)
        training = ev.TrainingStep(step=number, began_ns=began_ns, usual_s=1.5, epoch=2.0)
        pulse = ev.Pulse(beat=int(at), beat_ns=int(at * SECOND), training=training)
        job.see(at, ev.PulseRead(process=job.key(0), pulse=pulse))
    job.tick(20.0)
    save(job, root, "trained")
    events = [one for one in trace(root, "trained") if one.get("ph") in ("X", "C")]
    slices = [one for one in events if one.get("cat") == "training"]
    assert [(one["name"], one["dur"]) for one in slices] == [
        ("steps 3 to 6", 4e6), ("step 7", 2e6), ("step 8", 4e6),
    ]  # fmt: skip
    assert slices[0]["args"] == {"usual_s": 1.5, "epoch": 2.0}
    counted = [one for one in events if one["ph"] == "C"]
    assert [one["args"]["step"] for one in counted] == [3, 7, 8]
    assert counted[1]["ts"] - counted[0]["ts"] == 4e6
