"""One bad run folder costs its own line, and never the memory, the time or the lines of the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distwatch.observer.journals.segments import Segment
from distwatch.runfolder import RunFolder
from distwatch.state.bounds import MOST_RANKS
from distwatch.state.frames import HEADER_SIZE, FileHeader, Record, encode_header, process_key
from tests.cli.runs import call
from tests.support.bounded import MIB, distwatch_within

MANY = 900_000_000
HEADER = FileHeader(
    stream=process_key("h", 7, 5), host="h", pid=7, start_ticks=5, boot_id="b", wall_offset_ns=0,
    salt=9,
)  # fmt: skip
STARTED = {
    "kind": "process_started",
    "host": "h",
    "pid": 7,
    "start_ticks": 5,
    "ppid": 1,
    "role": "rank",
}
STUCK = {"kind": "step_started", "step": 1, "name": "init_process_group", "deadline_s": 1.0}


def journal(folder: RunFolder, *events: dict[str, Any], header: FileHeader = HEADER) -> None:
    """A journal of those events, as they would stand in msgpack; a day passes after the last."""
    segment = Segment(folder.journal("h-7"), header)
    late = {"kind": "step_progressed", "step": 1, "done": 0}
    segment.append(
        [
            Record(seq=seq, time_ns=seq * 10**9, payload=msgspec.msgpack.encode(event))
            for seq, event in enumerate(events, 1)
        ]
        + [Record(seq=99_999, time_ns=86_400 * 10**9, payload=msgspec.msgpack.encode(late))]
    )
    segment.close()


def started(**identity: object) -> dict[str, Any]:
    return {**STARTED, "identity": identity}


def environment(folder: RunFolder) -> None:
    journal(folder, started(global_rank=3, world_size=MANY), STUCK)


def call_of_init(folder: RunFolder) -> None:
    plan = {"kind": "init_planned", "global_rank": 3, "world_size": MANY, "endpoint": "h:29500"}
    journal(folder, started(), plan, STUCK)


def word_of_torch(folder: RunFolder) -> None:
    journal(folder, started(), {"kind": "identity_confirmed", "global_rank": 0, "world_size": MANY})


def weight_sync(folder: RunFolder) -> None:
    joined = {"kind": "side_world_joined", "number": 1, "step": 1, "group_rank": 0, "size": MANY}
    step = {**STUCK, "name": "init_custom_process_group"}
    journal(folder, started(global_rank=0, world_size=1), step, joined)


def mesh(folder: RunFolder) -> None:
    made = {"kind": "mesh_made", "device": "cpu", "axes": ["a", "b"], "sizes": [MANY, MANY]}
    journal(folder, started(global_rank=0, world_size=2), {**made, "members": [0, 1]})


def lists_of_ranks(folder: RunFolder) -> None:
    groups = [
        {"kind": "group_created", "pg_name": str(n), "spans": [0, MOST_RANKS - n, 1]}
        for n in range(12)
    ]
    journal(folder, started(global_rank=0, world_size=2), *groups)


def circle_of_steps(folder: RunFolder) -> None:
    ring = [{**STUCK, "step": n, "parent": n % 3 + 1, "name": "from_pretrained"} for n in (1, 2, 3)]
    journal(folder, started(global_rank=0, world_size=1), *ring)


def clock_of_another_age(folder: RunFolder) -> None:
    header = msgspec.structs.replace(HEADER, wall_offset_ns=(1 << 64) - 1)
    journal(folder, started(global_rank=0, world_size=1), header=header)


def start_record(folder: RunFolder) -> None:
    lines = ("pid=seven", f"ticks={'9' * 5000}", "ppid=1", "host=h", "role=rank", "RANK=²")
    Path(folder.path, "h-7.start").write_text("\n".join(lines))


def start_record_of_a_large_world(folder: RunFolder) -> None:
    lines = ("pid=7", "ticks=5", "ppid=1", "host=h", "role=rank", "RANK=3", f"WORLD_SIZE={MANY}")
    Path(folder.path, "h-7.start").write_text("\n".join(lines))


def no_records(folder: RunFolder) -> None:
    Path(folder.journal("h-7")).write_bytes(encode_header(HEADER) + b"\xff" * HEADER_SIZE)


def no_file(folder: RunFolder) -> None:
    Path(folder.journal("h-7")).mkdir()


ATTACKS: tuple[Callable[[RunFolder], None], ...] = (
    environment, call_of_init, word_of_torch, weight_sync, mesh, lists_of_ranks, circle_of_steps,
    clock_of_another_age, start_record, start_record_of_a_large_world, no_records, no_file,
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_bad_run_is_one_line_and_the_others_are_read(
    attack: Callable[[RunFolder], None], hung: Path
) -> None:
    folder = RunFolder(str(hung / "bad"))
    folder.create()
    attack(folder)
    listed = distwatch_within(400 * MIB, "ps", root=hung)
    assert listed.returncode == 0, listed.stderr
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert set(lines) == {"RUN", "hung", "bad"}
    assert "rank 2 never entered" in lines["hung"]
    assert "MemoryError" not in lines["bad"]
    told = distwatch_within(600 * MIB, "report", "bad", "-o", "html", root=hung)
    assert told.returncode in (0, 3, 6), told.stderr
    assert "Traceback" not in told.stderr
    assert "never entered" in call("status", "hung", root=hung).stdout
    assert str(hung / "hung") in call("clean", "--all", root=hung).stdout


@pytest.mark.parametrize("attack", [environment, call_of_init, word_of_torch])
def test_the_report_says_which_size_was_cut(
    attack: Callable[[RunFolder], None], root: Path
) -> None:
    folder = RunFolder(str(root / "bad"))
    folder.create()
    attack(folder)
    report = json.loads(call("report", "bad", "-o", "json", root=root).stdout)
    told = report["coverage"]["not_observed"]["sizes out of bound"]
    assert told.startswith(f"cut to {MOST_RANKS}: WORLD_SIZE={MANY} of rank ")
    assert report["coverage"]["expected_ranks"] == MOST_RANKS
    assert f"WORLD\\_SIZE={MANY}" in call("report", "bad", root=root).stdout


def test_whatever_is_wrong_with_a_run_the_others_are_listed(
    hung: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunFolder(str(hung / "bad")).create()
    environment(RunFolder(str(hung / "bad")))
    from distwatch.observer.targets import runs

    def load(folder: RunFolder) -> Any:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(runs, "load_state", load)
    listed = {run.run_id: run.verdict for run in runs.list_runs(str(hung))}
    assert set(listed) == {"hung", "bad"}
    assert "a fault of ours" in listed["bad"].summary
