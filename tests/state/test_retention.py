"""What is retained of a process: one table, which a snapshot carries and the reducer folds anew."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distwatch.agent.retained import Retained
from distwatch.state import events as ev
from distwatch.state.events import decode_event, encode_event
from distwatch.state.finding import Finding
from distwatch.state.frames import FileHeader
from distwatch.state.identity import Identity
from distwatch.state.loads import LoadArguments, Placement
from distwatch.state.model import CLOSED_STEPS_KEPT, Process, RunState
from distwatch.state.process_reducer import INSIDE
from distwatch.state.reducer import reduce

KEY = "h-1.1"
HEADER = FileHeader(
    stream=KEY, host="h", pid=1, start_ticks=1, boot_id="", wall_offset_ns=0, salt=1
)
FEW = 3
"""So many are kept of each class in these tests: short histories come to the bounds."""
LIMIT = 1 << 20

names = st.sampled_from("abcdef")
numbers = st.integers(1, 9)
sites = st.builds(ev.Site, file=st.just("f"), line=numbers)
parts = st.builds(
    lambda pg: (ev.HeldGroup(role="tp", pg_name=pg, members=tuple(range(40))),), names
)
said = st.one_of(
    st.builds(
        ev.FindingRaised,
        finding=st.builds(
            Finding, code=names, severity=st.just("hang"), summary=st.just("s"), advice=st.just("a")
        ),
    ),
    st.builds(ev.InitPlanned, number=st.just(0), global_rank=st.none() | st.integers(0, 3)),
    st.builds(ev.IdentityConfirmed, global_rank=st.integers(0, 3), world_size=st.just(4)),
    st.builds(ev.WorkerPlaced, actor_id=names),
    st.builds(ev.MeshMade, device=names, members=st.just(tuple(range(64)))),
    st.builds(ev.LayoutHeld, framework=names, groups=parts),
    st.builds(ev.LayoutReleased, framework=names),
    st.builds(ev.GradientSkipped, framework=names, skipped=numbers, of=st.just(9)),
    st.builds(ev.NonMemberCalled, op=names, site=sites),
    st.builds(ev.IntegrationChanged, name=names, status=st.sampled_from(["armed", "applied"])),
    st.builds(ev.StepStarted, step=st.just(0), name=names),
    st.builds(ev.StepStarted, step=st.just(0), name=st.just("from_pretrained")),
    st.builds(ev.StepProgressed, step=numbers, done=numbers),
    st.builds(ev.StepEnded, step=numbers, error=st.none() | names),
    st.builds(ev.LoadPlanned, step=numbers, arguments=st.builds(LoadArguments, checkpoint=names)),
    st.builds(ev.ModelPlaced, step=numbers, placement=st.builds(Placement, model_class=names)),
    st.builds(ev.ExtraGroupJoined, number=numbers, step=numbers, name=names),
    st.builds(
        ev.GroupCreated,
        pg_name=names,
        members=st.sampled_from([(0, 1), tuple(range(99))]),
        timeout_s=st.none() | st.floats(1, 9),
    ),
    st.builds(ev.GroupCalled, number=numbers, members=st.none() | st.just(tuple(range(50)))),
    st.builds(ev.LocalGroupCalled, number=numbers, members=st.just((0, 1)), held=numbers),
    st.builds(ev.GroupDestroyed, pg_name=names | st.just("")),
    st.builds(ev.SiteSeen, number=numbers, site=sites),
    st.builds(ev.ExceptionUncaught, type_name=names, message=names),
    st.builds(ev.HookFailed, hook=names, error=names),
    st.builds(ev.ProcessEnding),
    st.builds(ev.ExceptionHeld, type_name=names, times=numbers),
    st.builds(ev.ExceptionPassed),
    st.builds(ev.ThreadDied, thread=names, type_name=names),
    st.builds(ev.LimitReached, what=names),
    st.builds(ev.MainEnded),
    st.builds(ev.AgentLeft),
)
STARTED = ev.ProcessStarted(
    host="h", pid=1, start_ticks=1, ppid=0, role="rank", identity=Identity(global_rank=2)
)


@st.composite
def histories(draw: st.DrawFn, least: int = 0, most: int = 40) -> list[ev.Event]:
    """What a process may say: its steps and its plans have running numbers, as the agent has it."""
    history: list[ev.Event] = [STARTED]
    begun: list[int] = []
    for number, event in enumerate(draw(st.lists(said, min_size=least, max_size=most)), start=1):
        if isinstance(event, ev.StepStarted):
            event = ev.StepStarted(step=number, name=event.name)
            begun.append(number)
        elif isinstance(event, ev.LoadPlanned | ev.ModelPlaced | ev.StepProgressed | ev.StepEnded):
            if not begun:
                continue
            event = msgspec.structs.replace(event, step=begun[event.step % len(begun)])
        elif isinstance(event, ev.InitPlanned):
            event = ev.InitPlanned(number=number, global_rank=event.global_rank)
        history.append(event)
    return history


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ev.Event.__subclasses__():
        if kind.retain.most > 1:
            monkeypatch.setattr(kind.retain, "most", FEW)


def retained(history: list[ev.Event]) -> Retained:
    table = Retained()
    for time_ns, event in enumerate(history, start=1):
        table.keep(time_ns, event, encode_event(event))
    return table


def read_back(snapshot: ev.Event) -> ev.Snapshot:
    """As its readers get it."""
    read = decode_event(encode_event(snapshot))
    assert isinstance(read, ev.Snapshot)
    return read


def fold(*told: tuple[int, int, ev.Event]) -> Process:
    state = RunState()
    for seq, time_ns, event in told:
        reduce(state, HEADER, seq, time_ns, event)
    return state.processes[KEY]


def all_of(history: list[ev.Event]) -> list[tuple[int, int, ev.Event]]:
    return [(n, n, event) for n, event in enumerate(history, start=1)]


def lasting(process: Process, without: tuple[str, ...] = ()) -> dict[str, object]:
    """What holds now; not what is over, how far steps are, and what was read of the stream."""
    loads = {step.step for step in process.open_steps()} & process.loads.keys()
    told: dict[str, object] = {
        "group_created": {n: g for n, g in process.groups.items() if g.destroyed_ns is None},
        "step_started": [(s.step, s.name, s.started_ns) for s in process.open_steps()],
        "layout_held": (process.layouts, process.layouts_ns),
        "finding_raised": process.raised,
        "mesh_made": process.meshes,
        "non_member_called": process.non_member_calls,
        "gradient_skipped": process.skipped_gradients,
        "integration_changed": process.integrations,
        "side_world_joined": process.extra_groups,
        "group_called": process.group_calls,
        "site_seen": process.sites,
        "hook_failed": process.hook_failures,
        "load_planned": {n: process.loads[n].arguments for n in loads},
        "model_placed": {n: process.loads[n].placement for n in loads},
        "": [
            *(process.started, process.started_ns, process.worker, process.confirmed),
            *(process.planned, process.planned_ns, process.initialized, process.world_ended_ns),
            *(process.exception, process.exception_ns, process.exception_by_agent),
        ],
    }
    return {kind: what for kind, what in told.items() if kind not in without}


LOADS = ("load_planned", "model_placed")
"""Of loads the state keeps the newest that have begun: one more that is open may go."""


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories())
def test_a_snapshot_alone_gives_what_holds(history: list[ev.Event]) -> None:
    snapshot = read_back(retained(history).snapshot(0, LIMIT))
    late = fold((len(history), len(history), snapshot))
    assert lasting(late, LOADS) == lasting(fold(*all_of(history)), LOADS)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories())
def test_it_gives_what_its_events_give_one_by_one(history: list[ev.Event]) -> None:
    snapshot = read_back(retained(history).snapshot(0, LIMIT))
    one_by_one = fold(*((n, time, event) for n, (time, event) in enumerate(snapshot.kept, 1)))
    assert lasting(fold((99, 99, snapshot))) == lasting(one_by_one)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories(), st.data())
def test_after_a_lost_stretch_it_gives_what_holds(
    history: list[ev.Event], data: st.DataObject
) -> None:
    read = data.draw(st.integers(0, len(history)))
    end = len(history) + 1
    snapshot = read_back(retained(history).snapshot(0, LIMIT))
    bridged = fold(*all_of(history[:read]), (end, end, snapshot))
    # Of what was cut nobody can say whether it is over.
    cut = (*snapshot.incomplete, *LOADS)
    assert lasting(bridged, cut) == lasting(fold(*all_of(history)), cut)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories())
def test_whoever_lost_nothing_learns_nothing_from_it(history: list[ev.Event]) -> None:
    end = len(history) + 1
    snapshot = read_back(retained(history).snapshot(0, LIMIT))
    before, after = fold(*all_of(history)), fold(*all_of(history), (end, end, snapshot))
    after.last_seq, after.last_ns = before.last_seq, before.last_ns
    assert after == before


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories(least=150, most=300))
def test_whatever_is_said_memory_is_bounded(history: list[ev.Event]) -> None:
    table = retained(history)
    kept = read_back(table.snapshot(0, LIMIT)).kept
    for kind in ev.Event.__subclasses__():
        assert sum(type(event) is kind for _, event in kept) <= kind.retain.most
    process = fold(*all_of(history))
    for field in process.__struct_fields__:
        value = getattr(process, field)
        if isinstance(value, dict | list):
            most = CLOSED_STEPS_KEPT + FEW if field == "steps" else FEW
            assert len(value) <= most, field


def test_every_class_that_is_kept_can_be_folded() -> None:
    kept = [kind for kind in ev.Event.__subclasses__() if kind.retain.most]
    assert ev.NonMemberCalled in kept
    assert ev.HookFailed in kept
    assert [kind for kind in kept if kind not in INSIDE] == []


def test_a_snapshot_has_room_in_its_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ev.GroupCalled.retain, "most", 4096)
    calls: list[ev.Event] = [
        ev.GroupCalled(number=n, members=(n, n + 3), pg_desc="x" * 50) for n in range(1, 3000)
    ]
    table = retained([STARTED, *calls])
    written = encode_event(table.snapshot(0, 20_000))
    snapshot = decode_event(written)
    assert len(written) <= 20_000
    assert isinstance(snapshot, ev.Snapshot)
    assert snapshot.incomplete == ("group_called",)
    left = [event.number for _, event in snapshot.kept if isinstance(event, ev.GroupCalled)]
    assert left == list(range(left[0], 3000)), "the newest are left, without a hole"
    assert len(left) > 100
    assert snapshot.kept[0] == (1, STARTED)
    assert encode_event(table.snapshot(0, 0)) == encode_event(
        ev.Snapshot(incomplete=("group_called", "process_started"))
    )


def test_a_kind_of_the_future_is_left_out_of_a_snapshot() -> None:
    future = ev.UnknownEvent(kind="warp", payload=b"\x81\xa4kind\xa4warp")
    snapshot = ev.Snapshot(kept=((1, STARTED), (2, future), (3, ev.ProcessEnding())))
    assert read_back(snapshot).kept == ((1, STARTED), (3, ev.ProcessEnding()))


def test_a_snapshot_within_snapshots_is_no_news() -> None:
    snapshot = ev.Snapshot(kept=((1, STARTED),))
    for _ in range(40):
        snapshot = ev.Snapshot(kept=((1, snapshot),))
    assert read_back(snapshot).kept == ()


def test_what_was_closed_is_closed_once() -> None:
    table = retained([ev.StepStarted(step=1, name="n")])
    assert [step.name for step in table.all(ev.StepStarted)] == ["n"]
    assert [table.drop(ev.StepStarted, 1) for _ in range(2)] == [True, False]
    assert table.get(ev.StepStarted, 1) is None


def _busy(table: Retained, first: int) -> Iterator[None]:
    for number in range(first, first + 800):
        events: tuple[ev.Event, ...] = (
            ev.StepStarted(step=number, name="n"),
            ev.SiteSeen(number=number, site=ev.Site(file="f", line=number)),
            ev.GroupCreated(pg_name=str(number % 7)),
            ev.GroupDestroyed(pg_name="" if number % 50 == 0 else str(number % 5)),
            ev.StepEnded(step=number - 2),
        )
        for event in events:
            table.keep(number, event, encode_event(event))
        yield


def test_a_snapshot_may_be_made_while_others_write() -> None:
    table = Retained()
    failures: list[Exception] = []
    writing = [True] * 3

    def write(place: int) -> None:
        try:
            for _ in _busy(table, place * 10_000):
                pass
        except Exception as failure:
            failures.append(failure)
        finally:
            writing[place] = False

    threads = [threading.Thread(target=write, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    made = 0
    while any(writing) or not made:
        made += len(read_back(table.snapshot(0, LIMIT)).kept) > 0
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(table.all(ev.SiteSeen)) <= FEW
