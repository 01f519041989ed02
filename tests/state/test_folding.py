"""The reducer: whatever order streams arrive in, the state is the same."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from distwatch.state import events as ev
from distwatch.state.finding import Finding
from distwatch.state.frames import FileHeader
from distwatch.state.identity import Identity
from distwatch.state.model import TIMELINE_KEPT, RunState, TimelineEntry
from distwatch.state.ray_events import RayActorSeen, RayLooked, RayNodeSeen
from distwatch.state.reducer import reduce

Timed = tuple[int, ev.Event]
KEYS = ["a-1.1", "b-2.2"]
names = st.sampled_from(["0", "1", "tp"])
steps = st.integers(1, 5)

inside = st.one_of(
    st.builds(
        ev.ProcessStarted,
        host=st.sampled_from(["a", "b"]),
        pid=st.integers(1, 9),
        start_ticks=st.just(1),
        ppid=st.just(0),
        role=st.sampled_from(["rank", "other"]),
        identity=st.builds(Identity, global_rank=st.integers(0, 3)),
    ),
    st.builds(ev.InitPlanned, number=st.integers(1, 3), global_rank=st.none() | st.integers(0, 3)),
    st.builds(ev.MeshMade, device=st.just("cpu"), axes=st.just(("dp",)), sizes=st.just((2,))),
    st.builds(ev.NonMemberCalled, op=st.sampled_from(["all_reduce", "barrier"])),
    st.builds(
        ev.FindingRaised,
        finding=st.just(Finding(code="c", severity="hang", summary="s", advice="a")),
        step=names,
    ),
    st.builds(ev.IdentityConfirmed, global_rank=st.integers(0, 3), world_size=st.just(4)),
    st.builds(ev.StepStarted, step=steps, name=names, parent=st.none() | steps),
    st.builds(ev.StepProgressed, step=steps, done=st.integers(0, 9)),
    st.builds(ev.StepEnded, step=steps, error=st.none() | st.just("E: x")),
    st.builds(ev.GroupCreated, pg_name=names, members=st.just((0, 1))),
    st.builds(ev.GroupCalled, number=st.integers(1, 3), members=st.none()),
    st.builds(ev.GroupDestroyed, pg_name=names | st.just("")),
    st.builds(ev.ExceptionUncaught, type_name=st.just("E"), message=st.text(max_size=5)),
    st.builds(ev.ProcessEnding),
    st.builds(ev.AgentLeft),
    st.builds(ev.HookFailed, hook=names, error=st.text(max_size=5)),
    st.builds(ev.UnknownEvent, kind=st.just("from_the_future"), payload=st.just(b"\x81")),
)
pulses = st.builds(
    ev.Pulse,
    beat=st.integers(1, 5),
    beat_ns=st.integers(1, 50),
    groups=st.just(())
    | st.builds(lambda n: (ev.GroupProgress(pg_name="0", enqueued=n),), st.integers(0, 5)),
)
ray_actors = st.builds(
    RayActorSeen,
    host=st.sampled_from(["a", "b"]),
    actor_id=names,
    job_id=st.just("01"),
    state=st.sampled_from(["ALIVE", "DEAD", "PENDING_CREATION"]),
)
outside = st.one_of(
    ray_actors,
    st.builds(RayNodeSeen, host=st.sampled_from(["a", "b"]), node_id=names, alive=st.booleans()),
    st.builds(RayLooked, host=st.sampled_from(["a", "b"]), address=names),
    st.builds(
        ev.NotObserved,
        host=st.sampled_from(["a", "b"]),
        what=st.just("Ray"),
        why=st.text(max_size=3),
    ),
    st.builds(ev.ProcessSampled, process=st.sampled_from(KEYS), state=st.sampled_from("RSDTZ")),
    st.builds(ev.PulseRead, process=st.sampled_from(KEYS), pulse=pulses),
    st.builds(
        ev.ExitSeen,
        process=st.sampled_from(KEYS),
        exit_code=st.none() | st.integers(0, 2),
        signal=st.none() | st.just(9),
    ),
    st.builds(
        ev.StackTaken,
        process=st.sampled_from(KEYS),
        threads=st.just(()) | st.just((ev.ThreadStack(name="MainThread"),)),
        error=st.none() | st.just("gone"),
    ),
    st.builds(ev.NotObserved, host=st.just("a"), what=names, why=st.text(max_size=5)),
    st.builds(ev.HostSampled, host=st.sampled_from(["a", "b"]), memory_total=st.integers(0, 9)),
    st.builds(
        ev.EndpointProbed,
        host=st.sampled_from(["a", "b"]),
        endpoint=st.sampled_from(["h:1", "h:2"]),
        outcome=st.sampled_from(["store", "refused"]),
    ),
    st.builds(ev.ObserverStarted, host=st.just("a"), pid=st.integers(1, 9)),
    st.builds(ev.ObserverEnded, host=st.just("a"), reason=st.text(max_size=5)),
    st.builds(
        ev.LinkChanged, host=st.sampled_from(["a", "b"]), peer=st.just("c"), linked=st.booleans()
    ),
    st.builds(ev.Ticked, host=st.just("a")),
    st.builds(
        ev.IncidentNotified,
        host=st.just("a"),
        incident=st.integers(1, 2),
        phase=st.sampled_from(["new", "over"]),
    ),
    st.builds(
        ev.RankAborted,
        host=st.just("a"),
        process=st.sampled_from(KEYS),
        how=st.sampled_from(["asked", "killed"]),
    ),
    st.builds(
        ev.NodeMarked,
        host=st.just("a"),
        node=st.sampled_from(["a", "b"]),
        incident=st.integers(1, 2),
        code=st.just("device.lost"),
        summary=st.just("s"),
    ),
    st.builds(
        ev.FindingsJudged,
        host=st.just("a"),
        incident=st.none() | st.integers(1, 2),
        findings=st.just(())
        | st.builds(
            lambda c: (Finding(code=c, severity="hang", summary="s", advice="a"),),
            st.just("process.killed"),
        ),
        of_one_host=st.booleans(),
    ),
)


def header(stream: str, host: str) -> FileHeader:
    return FileHeader(
        stream=stream, host=host, pid=1, start_ticks=1, boot_id="", wall_offset_ns=7, salt=1
    )


STREAMS = {
    "a-1.1": header("a-1.1", "a"),
    "b-2.2": header("b-2.2", "b"),
    "observer:a": header("observer:a", "a"),
    "observer:b": header("observer:b", "b"),
}


@st.composite
def runs(draw: st.DrawFn) -> dict[str, list[Timed]]:
    """A few events for each stream; times never go back within one."""
    run: dict[str, list[Timed]] = {}
    for stream in STREAMS:
        kind = outside if stream.startswith("observer") else inside
        events = draw(st.lists(kind, max_size=8))
        times = sorted(
            draw(st.lists(st.integers(1, 60), min_size=len(events), max_size=len(events)))
        )
        run[stream] = list(zip(times, events, strict=True))
    return run


def fold(run: dict[str, list[Timed]], order: list[str]) -> RunState:
    state = RunState()
    cursors = dict.fromkeys(run, 0)
    for stream in order:
        seq = cursors[stream] = cursors[stream] + 1
        time_ns, event = run[stream][seq - 1]
        reduce(state, STREAMS[stream], seq, time_ns, event)
    return state


@settings(max_examples=300, deadline=None)
@given(runs(), st.randoms(use_true_random=False))
def test_any_interleaving_gives_the_same_state(run: dict[str, list[Timed]], random) -> None:  # type: ignore[no-untyped-def]
    one = [stream for stream, events in run.items() for _ in events]
    other = list(one)
    random.shuffle(other)
    assert fold(run, one) == fold(run, other)


@settings(max_examples=100, deadline=None)
@given(runs(), st.integers(0, 30))
def test_reading_again_changes_nothing(run: dict[str, list[Timed]], again: int) -> None:
    order = [stream for stream, events in run.items() for _ in events]
    state, once = fold(run, order), fold(run, order)
    for stream, events in run.items():
        for seq, (time_ns, event) in enumerate(events[:again], start=1):
            reduce(state, STREAMS[stream], seq, time_ns, event)
    assert state == once


def test_a_lost_stretch_is_counted_unless_a_snapshot_bridges_it() -> None:
    state = RunState()
    for seq in (1, 5):
        reduce(state, STREAMS["a-1.1"], seq, seq, ev.ProcessEnding())
    assert state.processes["a-1.1"].gaps == 3
    started = ev.ProcessStarted(
        host="a", pid=1, start_ticks=1, ppid=0, role="rank", identity=Identity(global_rank=2)
    )
    snapshot = ev.Snapshot(
        kept=(
            (1, started),
            (2, ev.GroupCreated(pg_name="0", members=(0, 1))),
            (3, ev.StepStarted(step=9, name="init_process_group")),
        )
    )
    reduce(state, STREAMS["a-1.1"], 50, 50, snapshot)
    process = state.processes["a-1.1"]
    assert (process.gaps, process.global_rank) == (3, 2)
    assert process.groups["0"].members == (0, 1)
    assert [(step.name, step.started_ns) for step in process.open_steps()] == [
        ("init_process_group", 3)
    ]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 9))
def test_the_newest_are_remembered_whatever_comes_first(seed: int, more: int) -> None:
    entries = [
        TimelineEntry(
            time_ns=n // 2, stream="s", seq=n, host="a", process="p", event=ev.ProcessEnding()
        )
        for n in range(TIMELINE_KEPT + more)
    ]
    shuffled = list(entries)
    Random(seed).shuffle(shuffled)
    state = RunState()
    for entry in shuffled:
        state.remember(entry)
    assert state.timeline == entries[more:]
