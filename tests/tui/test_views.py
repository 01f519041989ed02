from __future__ import annotations

import msgspec
import pytest

from distwatch.diagnosis.facts.job import Job
from distwatch.state import events as ev
from distwatch.state.finding import Way
from distwatch.tui.picture import Picture, take_picture
from distwatch.tui.verdict import coverage_line
from distwatch.tui.views import devices, events, findings, groups, ranks, stacks
from distwatch.tui.views.detail import detail
from distwatch.tui.views.line import Line
from distwatch.views import event_text
from tests.tui.scripted import HOST, Script, failed_job, hung_job, large_job, state_of

FLAT: frozenset[str] = frozenset()


@pytest.fixture(scope="module")
def hung() -> Picture:
    return take_picture(state_of(hung_job()), "hung")


@pytest.fixture(scope="module")
def failed() -> Picture:
    return take_picture(state_of(failed_job()), "failed")


def texts(lines: list[Line], width: int = 140) -> list[str]:
    return [line.draw(width).plain.rstrip() for line in lines]


def test_ranks_show_state_place_and_the_culprit(hung: Picture) -> None:
    shown = texts(ranks.lines(hung, ranks.Order()))
    assert "w waiting" in shown[0]
    assert shown[2].startswith("▶    2")
    assert "data_loader.py:41 in __getit" in shown[2]


@pytest.mark.parametrize("width", [38, 60, 78, 100, 118, 140, 238])
def test_rank_columns_fill_the_width_exactly(hung: Picture, width: int) -> None:
    for line in ranks.lines(hung, ranks.Order()):
        text = line.draw(width)
        assert text.cell_len == width
    assert ranks.heading(ranks.Order("since", reverse=True), width).cell_len == width


def test_eighty_columns_show_rank_state_since_doing_and_where(hung: Picture) -> None:
    titles = ranks.heading(ranks.Order(), 78).plain.split()
    assert titles == ["▼RANK", "STATE", "SINCE", "DOING", "WHERE"]
    assert "all_reduce #5 in default_pg" in ranks.lines(hung, ranks.Order())[0].draw(78).plain


def test_sorting_by_state_puts_the_worst_first(failed: Picture) -> None:
    order = ranks.Order("state")
    assert ranks.lines(failed, order)[0].key == "rank:1"
    assert ranks.lines(failed, order._replace(reverse=True))[-1].key == "rank:1"


def test_the_sort_key_goes_round_all_columns() -> None:
    order, seen = ranks.Order(), []
    for _ in ranks.COLUMNS:
        seen.append(order.column)
        order = order.following(ranks.SORTED_BY)
    assert seen == [column.name for column in ranks.COLUMNS]
    assert order == ranks.Order()


def test_a_group_says_who_is_in_and_who_is_missing(hung: Picture) -> None:
    title, flight, progress = texts(groups.lines(hung))
    assert title == "default_pg  gloo · 4 members 0-3 · timeout 30 min"
    assert flight.strip() == "■ all_reduce #5 in flight for 42 s  in: 0-1,3  missing: 2"
    assert progress.strip() == "entered  #5: 0-1,3 · #4: 2"


def test_a_member_that_was_not_observed_is_named(failed: Picture) -> None:
    assert "not observed: 3" in "\n".join(texts(groups.lines(failed)))


def test_stacks_are_one_tree_with_rank_sets(hung: Picture) -> None:
    shown = texts(stacks.lines(hung, FLAT))
    assert shown[0].split() == ["0-3", "│", "<module>", "train.py:96"]
    assert [line.split()[0] for line in shown if line[0] != " "] == ["0-3", "0-1,3", "2"]
    assert shown[-1].split() == ["●", "__getitem__", "data_loader.py:41"]


def test_a_folded_frame_hides_what_it_calls(hung: Picture) -> None:
    whole = stacks.lines(hung, FLAT)
    folded = stacks.lines(hung, frozenset({whole[1].key}))
    assert len(folded) == 2
    assert "▸ main" in folded[1].draw(100).plain


def test_ranks_without_a_stack_are_named(failed: Picture) -> None:
    assert stacks.heading(failed, 100).plain.rstrip().endswith("no stack of: 0-3")


def test_devices_show_memory_cgroup_and_the_process_tree(hung: Picture) -> None:
    shown = texts(devices.lines(hung))
    text = "\n".join(shown)
    assert "memory   ████░░░░░░ 13.0 GiB of 33.0 GiB (39%)" in text
    assert "cgroup   █████████░ 14.0 GiB of 16.0 GiB (88%)" in text
    assert "devices  not observed: no NVIDIA driver on this host" in text
    rows = [line.split()[0:2] for line in shown]
    assert rows.index(["rank", "2"]) + 1 == next(
        n for n, r in enumerate(rows) if r[0] == "dataloader"
    )
    assert "/mnt/nfs/tokens-00017.bin" in text


def test_a_device_shows_its_faults() -> None:
    script = Script(1)
    script.start(0)
    device = ev.Device(
        index=0, name="NVIDIA H100", memory_total=80 << 30, memory_used=79 << 30, utilization=0,
        temperature_c=91, throttle=("thermal",), ecc_uncorrected=2, xid=(79,),
    )  # fmt: skip
    script.see(1.0, ev.DevicesSampled(host=HOST, devices=(device, ev.Device(index=1))))
    text = "\n".join(texts(devices.lines(take_picture(state_of(script), "r")), 200))
    assert "device 0 NVIDIA H100    0% busy" in text
    assert "throttled: thermal" in text
    assert "2 uncorrected ECC errors" in text
    assert "XID 79" in text
    assert "device 1 unnamed     – busy  – of –" in text


def test_processes_that_are_each_others_parent_do_not_hang_the_view() -> None:
    script = Script(1)
    for pid, parent in ((10, 11), (11, 10)):
        seen = ev.ProcessSighted(
            process=f"{HOST}-{pid}.5", host=HOST, pid=pid, start_ticks=5, ppid=parent, role="child",
            identity=script.identity(0),
        )  # fmt: skip
        script.see(1.0, seen)
    assert devices.lines(take_picture(state_of(script), "r"))


def test_events_are_on_the_wall_clock_newest_last(hung: Picture) -> None:
    shown = texts(events.lines(hung))
    assert shown[0].startswith("14:03:00.100  observer      observer started")
    assert shown[-1].startswith("14:04:01.500  ranks 0-3     stack taken")


def test_every_kind_of_event_has_words(failed: Picture) -> None:
    text = "\n".join(texts(events.lines(failed), 160))
    assert "exception uncaught   ValueError: token id 50301" in text
    assert "exit seen            exit code 1" in text
    assert "moon phase seen      an event of a newer distwatch" in text
    for kind in ev.Event.__subclasses__():
        if kind.is_routine is not True and kind not in (ev.UnknownEvent, ev.OldSnapshot):
            assert kind in event_text._TELLERS, kind


def test_findings_show_evidence_and_confidence(hung: Picture) -> None:
    shown = texts(findings.lines(hung), 200)
    assert shown[0] == "■ root hang process.data_stall  confidence 95%"
    assert "    culprit ranks: 2 · waiting ranks: 0-1,3" in shown
    assert any(line.startswith("    flight_recorder") for line in shown)


def test_both_ways_of_ranks_are_seen_in_a_narrow_terminal(hung: Picture) -> None:
    ways = tuple(
        Way(global_ranks=(rank,), file="/job/train.py", line=rank, function="main", lines=((rank, call),))
        for rank, call in ((1, "dist.broadcast(batch)"), (2, "dist.all_reduce(batch)"))
    )  # fmt: skip
    parted = msgspec.structs.replace(hung.findings[0], why=ways)
    picture = msgspec.structs.replace(hung, findings=(parted, *hung.findings[1:]))
    row = next(line for line in texts(findings.lines(picture), 60) if "→    1" in line)
    assert "  dist.broadcast(b" in row
    assert "  dist.all_reduce(b" in row
    told = detail(picture, "finding:0").plain.splitlines()
    assert [line[-6:] for line in told if "→    " in line] == ["(batch)"[-6:]] * 2


def test_the_detail_of_a_rank_tells_all_that_is_known(hung: Picture) -> None:
    text = detail(hung, "rank:2").plain
    for part in (
        "▶ blamed by the verdict", "process.data_stall (root, culprit)", "pid 4202 on node01, parent 4100",
        "2 of 4 (from torch)", "from_pretrained shards 3 of 3", "entered #4, completed #4",
        "all_reduce #4 in 0 4096 × float32", "__getitem__  /job/data_loader.py:41", "/mnt/nfs/tokens-00017.bin",
    ):  # fmt: skip
        assert part in text, part
    assert "all_reduce #5 in 0 4096 × float32  has not returned for" in detail(hung, "rank:0").plain


def test_the_detail_of_a_dead_rank_shows_its_exception_and_exit(failed: Picture) -> None:
    text = detail(failed, "rank:1").plain
    assert "ValueError: token id 50301 is not in the vocabulary" in text
    assert "exit code 1" in text
    assert "source: pidfd" in text
    assert "stack\n  not observed: none was taken" in text


def test_the_detail_of_an_unseen_rank_says_so(failed: Picture) -> None:
    assert "no process of this rank was ever seen" in detail(failed, "rank:3").plain
    assert "not observed: no permission to ptrace" in detail(failed, "rank:0").plain


def test_every_line_of_every_view_opens_a_detail(hung: Picture) -> None:
    lines = [
        *ranks.lines(hung, ranks.Order()), *groups.lines(hung), *stacks.lines(hung, FLAT),
        *devices.lines(hung), *events.lines(hung), *findings.lines(hung),
    ]  # fmt: skip
    assert len(lines) > 50
    for line in lines:
        assert "no longer in the run's state" not in detail(hung, line.key).plain, line.key


def test_the_detail_of_a_group_lists_each_member(hung: Picture) -> None:
    key = groups.lines(hung)[0].key
    rows = detail(hung, key).plain.splitlines()
    row = next(row for row in rows if row.split()[:1] == ["2"])
    assert row.split()[:4] == ["2", "#4", "#4", "none"]
    assert row.endswith("← missing")


def test_what_is_gone_has_a_sentence_instead_of_a_detail(hung: Picture) -> None:
    for key in (
        "rank:99",
        "group:9:0",
        "event:x:1",
        "finding:7",
        "stack:/x@y:1",
        "host:gone",
        "nonsense",
    ):
        assert "no longer in the run's state" in detail(hung, key).plain


def test_a_thousand_ranks_make_a_thousand_lines_that_draw_one_at_a_time() -> None:
    picture = take_picture(state_of(large_job(1024)), "large")
    lines = ranks.lines(picture, ranks.Order())
    assert len(lines) == 1024
    assert "1023" in lines[-1].draw(80).plain
    assert "1024 members 0-1023" in texts(groups.lines(picture))[0]


def test_a_picture_makes_out_who_the_ranks_are_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Job] = []
    make = Job.__init__

    def counted(job: Job, *args: object, **options: object) -> None:
        made.append(job)
        make(job, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Job, "__init__", counted)
    picture = take_picture(state_of(hung_job()), "hung")
    assert len(made) == 1
    # What draws it looks only: also at whom it blames, how many hosts there are, and each rank.
    assert coverage_line(picture).plain
    assert ranks.lines(picture, ranks.Order())
    assert len(made) == 1
