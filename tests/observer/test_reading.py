"""A run is read from disk whole, or as far as it is whole, and what is missing is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from distwatch.errors import PartialData
from distwatch.observer.journals.journal_intake import Followed
from distwatch.observer.journals.reading import read_entries, require_records
from distwatch.observer.journals.run_state import load_state
from distwatch.observer.journals.segments import Segment
from distwatch.runfolder import RunFolder
from distwatch.state import events as ev
from distwatch.state.frames import HEADER_SIZE, FileHeader, Record
from distwatch.state.model import RunState
from tests.observer.rank_process import RankProcess

Start = Callable[..., RankProcess]


def copy_to_disk(folder: RunFolder) -> None:
    """What an observer does in one tick."""
    for stem in folder.stems(".ring", folder.volatile):
        followed = Followed(folder, stem, folder.volatile)
        followed.read()
        followed.read_pulse()
        followed.keep_pulse()
        followed.close()


def told(state: RunState) -> dict[str, str]:
    return {what: why for host in state.hosts.values() for what, why in host.not_observed.items()}


def test_each_pulse_belongs_to_its_own_process(folder: RunFolder, start_rank: Start) -> None:
    ranks = [start_rank(number, 3) for number in range(3)]
    for number, rank in enumerate(ranks):
        rank.do(f"beat {number + 5} {number + 5}")
    state = load_state(folder)
    for number, rank in enumerate(ranks):
        pulse = state.processes[rank.key].outside.pulse
        assert pulse is not None
        assert pulse.groups[0].enqueued == number + 5


def test_disk_and_ring_tell_each_record_once(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank()
    rank.do("steps 2")
    copy_to_disk(folder)
    rank.do("steps 2")
    entries = [e for e in read_entries(folder) if e.header.stream == rank.key and e.seq]
    assert [entry.seq for entry in entries] == list(range(1, 10))


def test_after_the_tmpfs_is_gone_the_disk_tells_it_all(
    folder: RunFolder, start_rank: Start
) -> None:
    rank = start_rank()
    rank.do("begin from_pretrained 9")
    rank.do("beat 4 3")
    copy_to_disk(folder)
    rank.kill()
    shutil.rmtree(folder.volatile)
    process = load_state(folder).processes[rank.key]
    assert [step.name for step in process.open_steps()] == ["from_pretrained"]
    assert process.outside.pulse is not None
    assert process.outside.pulse.groups[0].completed == 3


def test_an_end_that_nobody_saw_is_an_end_of_which_nothing_else_is_known(
    folder: RunFolder, start_rank: Start
) -> None:
    rank, other = start_rank(0, 2), start_rank(1, 2)
    rank.kill()
    state = load_state(folder)
    assert "no observer" in state.processes[rank.key].outside.not_observed["end"]
    gone = state.processes[rank.key].outside.exit
    assert gone is not None
    assert (gone.exit_code, gone.signal) == (None, None)
    assert "end" not in state.processes[other.key].outside.not_observed
    assert state.processes[other.key].ended_ns is None


def test_records_come_in_their_own_order_even_where_their_times_do_not(folder: RunFolder) -> None:
    header = FileHeader(
        stream="h-7.9", host="h", pid=7, start_ticks=9, boot_id="", wall_offset_ns=0, salt=1
    )
    started = ev.StepStarted(step=1, name="load")
    payloads = [started, ev.StepProgressed(step=1, done=1), ev.StepEnded(step=1)]
    times = [10, 30, 20]
    segment = Segment(folder.journal("h-7"), header)
    segment.append(
        [
            Record(seq=seq, time_ns=time, payload=ev.encode_event(event))
            for seq, (time, event) in enumerate(zip(times, payloads, strict=True), 1)
        ]
    )
    segment.close()
    process = load_state(folder).processes["h-7.9"]
    assert process.steps[1].done == 1
    assert process.steps[1].ended_ns is not None
    assert process.gaps == 0


def test_garbage_is_named_and_costs_nothing_else(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank()
    rank.do("steps 3")
    copy_to_disk(folder)
    Path(folder.path, "junk.journal").write_bytes(os.urandom(20_000))
    Path(folder.path, "junk.pulse").write_bytes(os.urandom(20_000))
    Path(folder.path, "junk.start").write_bytes(os.urandom(2_000))
    Path(folder.journal("empty")).touch()
    state = load_state(folder)
    assert len(state.processes[rank.key].steps) == 3
    assert "header is damaged" in told(state)["junk.journal"]
    assert "header is damaged" in told(state)["empty.journal"]


def test_damage_loses_nothing_before_it(folder: RunFolder, start_rank: Start) -> None:
    rank = start_rank()
    rank.do("steps 10")
    copy_to_disk(folder)
    rank.kill()
    shutil.rmtree(folder.volatile)
    path = Path(folder.journal(rank.stem))
    content = path.read_bytes()
    whole = HEADER_SIZE + 700
    path.write_bytes(content[:whole] + os.urandom(len(content) - whole))
    state = load_state(folder)
    assert state.processes[rank.key].started is not None
    assert 1 <= len(state.processes[rank.key].steps) < 10
    assert "damaged" in told(state)[f"{rank.stem}.journal"]


def test_an_empty_folder_is_partial_data(folder: RunFolder) -> None:
    with pytest.raises(PartialData, match="no readable record"):
        load_state(folder)


def test_that_there_is_something_is_known_before_all_is_read(
    folder: RunFolder, start_rank: Start
) -> None:
    with pytest.raises(PartialData, match="no readable record"):
        require_records(folder)
    # A damaged file is a word about the run, and not one from it.
    Path(folder.journal("h-1")).write_bytes(b"no journal")
    with pytest.raises(PartialData, match="no readable record"):
        require_records(folder)
    start_rank().do("steps 1")
    require_records(folder)
