"""The root takes nothing on trust, says why it turns somebody away, and asks again for what it lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec
import pytest
import pytest_asyncio

from distwatch.observer.daemon import Observer
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.journals.segments import Segment, read_journal
from distwatch.observer.link import leaf_session
from distwatch.observer.link import messages as say
from distwatch.observer.link import root as module
from distwatch.observer.link.carrier import dial
from distwatch.observer.link.channel import Channel, LinkRefused
from distwatch.observer.link.handshake import connect
from distwatch.observer.link.root import Root
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.frames import FileHeader, process_key

TOKEN = b"0123456789abcdef"
FAR = "far-node"
RANK = FileHeader(
    stream=process_key(FAR, 11, 7), host=FAR, pid=11, start_ticks=7, boot_id="x",
    wall_offset_ns=1, salt=3,
)  # fmt: skip
OBSERVER_THERE = msgspec.structs.replace(
    RANK, stream=f"observer:{process_key(FAR, 9, 7)}#00000003", pid=9
)
T = TypeVar("T")
Join = Callable[..., Awaitable[Channel]]


@pytest_asyncio.fixture
async def observer(folder: RunFolder) -> AsyncIterator[Observer]:
    made = Observer(folder)
    yield made
    await made.finish("the test ends")


@pytest_asyncio.fixture
async def join(observer: Observer) -> AsyncIterator[Join]:
    """Connections to a root on loopback, as a leaf of another host makes them."""
    root = Root(observer, TOKEN)
    await root.start("127.0.0.1", 0)
    assert root.place is not None
    place, made = root.place, []

    async def make(
        run_id: str = "r", host: str = FAR, node: str = "n", rack: str = "", at: str = ""
    ) -> Channel:
        hello = say.Hello(kind="leaf", run_id=run_id, host=host, node=node, rack=rack, place=at)
        made.append(await connect(place, TOKEN, hello))
        return made[-1]

    yield make
    for one in made:
        one.abort()
    await root.close()


async def heard(channel: Channel, kind: type[T]) -> T:
    while True:
        message = say.decode_from_root(await channel.receive())
        if isinstance(message, kind):
            return message


def batch(after: int, *seqs: int, header: FileHeader = RANK) -> bytes:
    frames = tuple(
        say.Frame(0, seq, seq, encode_event(ev.StepStarted(step=seq, name="step"))) for seq in seqs
    )
    return say.encode(say.Batch(after=after, headers=(header,), frames=frames))


def seqs_on_disk(folder: RunFolder) -> list[int]:
    contents = read_journal(folder.journal(f"{FAR}-11"))
    return [record.seq for record in contents.records] if contents else []


def refuse_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the first of the far host's records come, and no more after that."""
    append = Segment.append
    refusals = [OSError(28, "No space left on device")]

    def full(segment: Segment, records: list[object]) -> None:
        if segment.header.host == FAR and refusals:
            raise refusals.pop()
        append(segment, records)  # type: ignore[arg-type]

    monkeypatch.setattr(Segment, "append", full)


async def ended(channel: Channel) -> None:
    """Returns once the root has let go of the connection."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            await channel.receive()


async def taken(channel: Channel, after: int = 1) -> None:
    """Takes leave: all that was said before has been taken then."""
    await channel.send(say.encode(say.Bye(after=after)))
    await heard(channel, say.Bye)


async def test_records_are_on_disk_and_in_the_state_once(
    folder: RunFolder, observer: Observer, join: Join
) -> None:
    first = await join()
    resume = await heard(first, say.Resume)
    assert resume.cursors == {}
    await first.send(batch(resume.number, 1, 2, 3))
    await first.send(batch(resume.number, 2, 3, 4))
    await taken(first)
    again = await join()
    resume = await heard(again, say.Resume)
    assert resume.cursors == {say.cursor_key(RANK): 4}
    await again.send(batch(resume.number, 5))
    await taken(again)
    assert seqs_on_disk(folder) == [1, 2, 3, 4, 5]
    assert sorted(observer.state.processes[RANK.stream].steps) == [1, 2, 3, 4, 5]
    assert sorted(load_state(folder).processes[RANK.stream].steps) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"\xc1 garbage", "cannot be read"),
        (say.encode(say.Seen()), "cannot be read"),
        (say.encode(say.Batch(after=1, frames=(say.Frame(0, 1, 1, b""),))), "not named"),
        (
            say.encode(
                say.Batch(after=1, headers=(RANK,), frames=(say.Frame(0, 1, 1, bytes(1 << 19)),))
            ),
            "too long",
        ),
        (
            say.encode(say.Batch(after=1, headers=(RANK,), frames=(say.Frame(0, -1, 1, b"\x80"),))),
            "out of range",
        ),
        (batch(1, 1, header=FileHeader(
            stream="x-1.7", host="x", pid=1, start_ticks=7, boot_id="", wall_offset_ns=0, salt=0,
        )), "a stream of host"),
    ],
)  # fmt: skip
async def test_what_a_leaf_cannot_mean_ends_its_connection_with_a_word(
    folder: RunFolder, observer: Observer, join: Join, body: bytes, word: str
) -> None:
    channel = await join()
    await heard(channel, say.Resume)
    await channel.send(body)
    assert word in (await heard(channel, say.Refused)).why
    await ended(channel)
    host = observer.recording.header.host
    assert word in observer.state.hosts[host].not_observed["link"]
    assert not observer.state.hosts[host].links[FAR].linked
    assert folder.stems(".journal") == [s for s in folder.stems(".journal") if "observer" in s]


async def test_a_rank_that_writes_no_events_does_not_part_its_host_from_the_root(
    folder: RunFolder, observer: Observer, join: Join
) -> None:
    channel = await join()
    resume = await heard(channel, say.Resume)
    wrong = encode_event(ev.StepEnded(step=1)).replace(b"\x01", b"\xc3")
    good = encode_event(ev.StepStarted(step=3, name="step"))
    frames = tuple(say.Frame(0, n, n, body) for n, body in enumerate((b"\xc1", wrong, good), 1))
    await channel.send(say.encode(say.Batch(after=resume.number, headers=(RANK,), frames=frames)))
    await taken(channel)
    assert seqs_on_disk(folder) == [1, 2, 3]
    assert list(observer.state.processes[RANK.stream].steps) == [3]


async def test_who_is_no_part_of_this_run(observer: Observer, join: Join) -> None:
    with pytest.raises(LinkRefused, match="watches run r, not other"):
        await join(run_id="other")
    with pytest.raises(LinkRefused, match="two machines are named"):
        await join(host=observer.recording.header.host)
    with pytest.raises(LinkRefused, match="is not a host name"):
        await join(host="../x")
    await heard(await join(run_id="r~3"), say.Resume)
    with pytest.raises(LinkRefused, match="two machines are named"):
        await join(node="another")


async def test_the_same_leaf_takes_the_place_of_its_cut_connection(
    observer: Observer, join: Join
) -> None:
    first = await join()
    await heard(first, say.Resume)
    second = await join()
    await heard(second, say.Resume)
    await ended(first)
    await taken(second)
    links = observer.state.hosts[observer.recording.header.host].links
    assert links[FAR].ended


async def test_a_leaf_that_falls_silent_is_lost(
    observer: Observer, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaf_session, "LOST_AFTER_S", 0.01)
    channel = await join()
    await ended(channel)
    link = observer.state.hosts[observer.recording.header.host].links[FAR]
    assert (link.linked, link.ended) == (False, False)
    assert "silent for" in link.why


async def test_what_the_disk_refused_is_asked_for_again(
    folder: RunFolder, observer: Observer, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaf_session, "TRY_DISK_AGAIN_S", 0.0)
    refuse_once(monkeypatch)
    channel = await join()
    first = await heard(channel, say.Resume)
    await channel.send(batch(first.number, 1, 2))
    await channel.send(batch(first.number, 3))
    second = await heard(channel, say.Resume)
    # The view has them, and so has the disk once they have come again; 3 alone would be a gap.
    assert {1, 2} <= observer.state.processes[RANK.stream].steps.keys()
    assert second.cursors.get(say.cursor_key(RANK), 0) == 0
    await channel.send(batch(first.number, 4))
    await channel.send(batch(second.number, 1, 2, 3, 4))
    await taken(channel, second.number)
    assert seqs_on_disk(folder) == [1, 2, 3, 4]
    host = observer.recording.header.host
    told = observer.state.hosts[host].not_observed["disk"]
    assert told.endswith(
        f"the disk refused the journals of {FAR} (No space left on device): none lost"
    )


async def test_looks_are_asked_of_leaves_and_answered(observer: Observer, join: Join) -> None:
    channel = await join()
    await heard(channel, say.Resume)
    await channel.send(say.encode(say.Batch(after=0)))
    await heard(channel, say.Seen)
    assert observer.others is not None
    assert observer.others.holds_on()
    (answer,) = observer.others.ask_looks("rank 1 waits", ask=True)
    look = await heard(channel, say.Look)
    assert (look.why, look.ask, answer.done()) == ("rank 1 waits", True, False)
    await channel.send(say.encode(say.Looked(number=look.number)))
    await answer
    (unanswered,) = observer.others.ask_looks("again")
    await taken(channel)
    await unanswered
    assert not observer.others.holds_on()


async def test_a_leaf_is_asked_to_end_a_culprit(observer: Observer, join: Join) -> None:
    channel = await join()
    await heard(channel, say.Resume)
    order = ev.RankAborted(host=FAR, process=RANK.stream, incident=3, code="c", summary="s")
    assert observer.others is not None
    observer.others.ask_to_end(order)
    observer.others.ask_to_end(msgspec.structs.replace(order, host="nowhere"))
    end = await heard(channel, say.End)
    assert (end.process, end.incident, end.code, end.summary) == (RANK.stream, 3, "c", "s")


async def test_a_leaf_gets_in_however_many_drip(observer: Observer, join: Join) -> None:
    assert isinstance(observer.others, Root)
    assert observer.others.place is not None
    dripping = []
    for number in range(200):
        reader, writer = await asyncio.open_connection("127.0.0.1", observer.others.place.port)
        await reader.readexactly(1)  # it is in the handshake by now
        writer.write(b"\xff")
        dripping.append(writer)
        if number % 50 == 0:
            channel = await join(host=f"far-{number}")
            assert (await heard(channel, say.Resume)).number == 1
    for writer in dripping:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_who_has_the_token_and_says_nothing_is_cut_off(
    observer: Observer, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_WITHIN_S", 0.2)
    assert isinstance(observer.others, Root)
    assert observer.others.place is not None
    channel = await dial(observer.others.place, TOKEN)
    await channel.send(b"\xc1")
    await ended(channel)
    channel.abort()


async def test_the_root_of_a_rack_passes_on_other_hosts_records(
    folder: RunFolder, observer: Observer, join: Join
) -> None:
    of_rack = await join(host="rack-root", at="127.0.0.1:1")
    resume = await heard(of_rack, say.Resume)
    await of_rack.send(batch(resume.number, 1, 3))
    await taken(of_rack)
    assert seqs_on_disk(folder) == [1, 3]
    assert FAR in observer.state.hosts


async def test_the_root_of_a_rack_cannot_speak_for_the_roots_own_host(
    observer: Observer, join: Join
) -> None:
    own = observer.recording.header.host
    forged = msgspec.structs.replace(RANK, stream=process_key(own, 11, 7), host=own)
    of_rack = await join(host="rack-root", at="127.0.0.1:1")
    resume = await heard(of_rack, say.Resume)
    await of_rack.send(batch(resume.number, 1, header=forged))
    refused = await heard(of_rack, say.Refused)
    assert f"a stream of host '{own}' from a leaf on rack-root" in refused.why


async def test_hosts_of_a_rack_are_sent_to_the_first_of_them(
    monkeypatch: pytest.MonkeyPatch, join: Join
) -> None:
    monkeypatch.setattr(module, "REGROUP_AFTER_S", 0.0)
    first, second = await join(host="a1", rack="a"), await join(host="a2", rack="a")
    for one in (first, second):
        await heard(one, say.Resume)
        await one.send(say.encode(say.CaughtUp()))
    assert (await heard(first, say.Serve)).address == "127.0.0.1"
    again = await join(host="a1", rack="a", at="127.0.0.1:1")
    await heard(again, say.Resume)
    await again.send(say.encode(say.CaughtUp()))
    assert (await heard(second, say.Move)).place == "127.0.0.1:1"


async def test_nobody_is_let_go_whose_records_the_disk_has_refused(
    folder: RunFolder, observer: Observer, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job may end within seconds of the disk's recovery: its last records would be lost."""
    refuse_once(monkeypatch)
    monkeypatch.setattr(leaf_session, "TRY_DISK_AGAIN_S", 0.01)
    channel = await join()
    first = await heard(channel, say.Resume)
    await channel.send(batch(first.number, 1, 2))
    await channel.send(say.encode(say.Bye(after=first.number)))
    second = await heard(channel, say.Resume)
    # What was said before that was known is no goodbye.
    await channel.send(say.encode(say.Bye(after=first.number)))
    await channel.send(batch(second.number, 1, 2))
    await taken(channel, second.number)
    assert seqs_on_disk(folder) == [1, 2]


async def test_how_old_values_are_at_most_is_known_without_their_hosts_clock(
    observer: Observer, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends new ones has got the answer to the last ones: what comes long after that was held up."""
    ahead = 0.0
    real = leaf_session.time.monotonic
    monkeypatch.setattr(leaf_session.time, "monotonic", lambda: real() + ahead)
    leaf = await join()
    number = (await heard(leaf, say.Resume)).number

    async def send_values(index: int) -> int:
        """By how many seconds they are taken to be late."""
        frame = say.Frame(0, 0, index, encode_event(ev.Ticked(host=FAR)))
        body = say.Batch(after=number, live=index, headers=(OBSERVER_THERE,), frames=(frame,))
        await leaf.send(say.encode(body))
        while (await heard(leaf, say.Seen)).live < index:
            pass
        hearing = observer.state.hosts[FAR].hearing
        assert hearing is not None
        assert hearing.upto_ns == index
        return round(real() + ahead - hearing.known_ns / 1e9)

    assert await send_values(1) == 0
    assert await send_values(2) == 0
    observer.tick()
    here = observer.state.hosts[observer.recording.header.host].hearing
    assert here is not None, "what happens here is known sooner than what comes from there"
    there = observer.state.hosts[FAR].hearing
    assert there is not None
    assert here.known_ns > there.known_ns
    ahead = 31.0
    assert await send_values(3) == 30
    await taken(leaf)
    await ended(leaf)
    assert observer.state.hosts[FAR].hearing is None, (
        "what is known counts when nobody tells any more"
    )
