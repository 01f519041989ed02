"""News of one host that comes late blames nobody, at the root and in each of its viewers: one verdict."""

from __future__ import annotations

import msgspec

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.observer.daemon import Observer
from distwatch.observer.link.hearings import note_heard
from distwatch.observer.link.messages import CaughtUp
from distwatch.observer.targets.live import LiveRun
from distwatch.observer.viewers.differences import Item, batches_of
from distwatch.observer.viewers.messages import pack
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.events import encode_event
from distwatch.state.frames import FileHeader
from tests.diagnosis.recorded import SECOND, RecordedJob
from tests.diagnosis.test_hearings import two_hosts


def fold(observer: Observer, job: RecordedJob) -> None:
    for stream, records in job.records.items():
        for seq, time_ns, event in records:
            observer.fold(job.headers[stream], seq, time_ns, event)


def hear(observer: Observer, host: str, until: float) -> None:
    """As links do, but with values that records have overtaken."""
    at_ns = int(until * SECOND)
    heard = ev.HostHeard(host=host, hearing=ev.Hearing(known_ns=at_ns, upto_ns=at_ns))
    observer.fold(observer.recording.header, 0, 0, heard)


def late_news(observer: Observer) -> RecordedJob:
    """Rank 0 on host a waits for rank 1 on host b, of which nothing newer than the call before is known."""
    job = two_hosts(known_until=20.0)
    fold(observer, job)
    hear(observer, "a", 40.0)
    hear(observer, "b", 20.0)
    return job


def arrive(observer: Observer, job: RecordedJob) -> None:
    """The news: rank 1 is still elsewhere."""
    job.pulse(1, at=39.0, groups={"0": (5, 5, 19.9)})
    fold(observer, job)
    hear(observer, "b", 39.0)


def blamed(run: Observer | LiveRun) -> list[tuple[str, tuple[int, ...]]]:
    return [(one.code, one.culprit_ranks) for one in diagnose(run.state) if one.role == "root"]


async def follow(viewer: LiveRun, observer: Observer) -> None:
    while viewer.state != observer.state:
        await viewer.wait(5)
        await viewer.poll()


async def test_a_viewer_that_comes_later_judges_as_the_root_does(observer: Observer) -> None:
    late_news(observer)
    assert blamed(observer) == []
    viewer = LiveRun(observer.folder)
    await viewer.open()
    assert blamed(viewer) == []
    await viewer.close()


async def test_a_viewer_that_is_there_judges_as_the_root_does(observer: Observer) -> None:
    viewer = LiveRun(observer.folder)
    await viewer.open()
    job = late_news(observer)
    await follow(viewer, observer)
    assert blamed(viewer) == blamed(observer) == []
    arrive(observer, job)
    await follow(viewer, observer)
    assert blamed(viewer) == blamed(observer) == [("collective.rank_missing", (1,))]
    note_heard(observer, "b", None)
    await follow(viewer, observer)
    assert viewer.state.hosts["b"].hearing is None, "nobody tells of that host any more"
    await viewer.close()


async def test_what_was_changed_since_a_picture_is_known_once_all_was_told(
    observer: Observer,
) -> None:
    job = late_news(observer)
    first, second = LiveRun(observer.folder), LiveRun(observer.folder)
    await first.open()
    arrive(observer, job)
    await second.open_whole()
    assert blamed(second) == blamed(observer) == [("collective.rank_missing", (1,))]
    await first.close()
    await second.close()


async def test_half_of_what_an_observer_tells_in_one_turn_is_not_shown(folder: RunFolder) -> None:
    """In the middle, one host's values are newer than another's, and nothing says so."""
    header = FileHeader(
        stream="observer:a-9.1#7", host="a", pid=9, start_ticks=1, boot_id="b", wall_offset_ns=0, salt=7
    )  # fmt: skip
    items: list[Item] = [(header, 1, 5, encode_event(ev.Ticked(host="a")))]
    viewer = LiveRun(folder)
    for batch in batches_of(items):
        viewer._take(msgspec.msgpack.encode(pack(batch)))
    assert not await viewer.poll()
    assert viewer.state.hosts == {}
    viewer._take(msgspec.msgpack.encode(CaughtUp()))
    assert await viewer.poll()
    assert viewer.state.hosts["a"].now_ns == 5


async def test_no_journal_says_what_was_heard(observer: Observer) -> None:
    """A rank can write anything into its journal, such as that the others' news is late."""
    late_news(observer)
    before = observer.state.hosts["b"].hearing
    forged = ev.HostHeard(host="b", hearing=ev.Hearing(known_ns=1 << 60, upto_ns=1))
    header = FileHeader(
        stream="b-1001.9", host="b", pid=1001, start_ticks=9, boot_id="b", wall_offset_ns=0, salt=1
    )  # fmt: skip
    observer.fold(header, 1, 7, forged)
    assert observer.state.hosts["b"].hearing == before
