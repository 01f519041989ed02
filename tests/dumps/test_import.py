"""`distwatch import` on dumps that real gloo ranks wrote, and on files that are something else."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distwatch.cli.__main__ import cli
from distwatch.dumps.evidence import rank_of
from distwatch.dumps.plain_pickle import NotPlain, load_plain
from distwatch.dumps.recorder import NotARecorderDump, read_recorder_dump
from tests.support.ranks import launch_ranks

NEWER_NS = 60 * 1_000_000_000
WORLD = 3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    path.mkdir(mode=0o700)
    return path


def dumps_of(case: str, kind: str, to: Path) -> Path:
    """What the ranks of a hung job leave; as if written a minute after they hung."""
    with launch_ranks("dumps_recorder", WORLD, args=(case, kind), env={"DISTWATCH": "0"}) as job:
        job.wait_step("gate dump", set(range(WORLD)))
        status = {"missing": {1}, "healthy": {0, 1, 2}}.get(case, set())
        job.wait_step("waiting", status)
        job.wait_step("blocked", set(range(WORLD)) - status)
        for rank in range(WORLD):
            job.open_gate("dump", rank)
        job.wait_step("dumped", set(range(WORLD)))
        job.wait_ended()
        to.mkdir()
        for path in sorted((job.work / "dumps").iterdir()):
            (to / path.name).write_bytes(path.read_bytes())
    make_older(to)
    return to


def make_older(folder: Path) -> None:
    newest = 0
    for path in folder.iterdir():
        dump = read_recorder_dump(path.read_bytes())
        newest = max([newest, *(entry.time_created_ns for entry in dump.entries)])
    for path in folder.iterdir():
        os.utime(path, ns=(newest + NEWER_NS, newest + NEWER_NS))


def run_import(folder: Path, root: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(
        cli,
        ["import", str(folder), "-o", "json", "--dir", str(root), *options],
        standalone_mode=False,
    )
    assert result.exception is None, result.output
    return result.return_value, json.loads(result.stdout), result.stderr


@pytest.mark.parametrize("kind", ["pickle", "frames", "json"])
@pytest.mark.parametrize(
    ("case", "code", "culprits"),
    [
        ("missing", "collective.rank_missing", [1]),
        ("mismatch", "collective.op_mismatch", [1]),
        ("uneven", "collective.count_uneven", [1]),
    ],
)
def test_dumps_of_a_hang_give_the_verdict_of_a_live_job(
    case: str, code: str, culprits: list[int], kind: str, tmp_path: Path, root: Path
) -> None:
    if case == "mismatch" and kind != "frames":
        pytest.skip("one kind of dump is enough for it")
    folder = dumps_of(case, kind, tmp_path / "dumps")
    status, report, _ = run_import(folder, root)
    root_finding = report["findings"][0]
    assert (root_finding["code"], root_finding["culprit_ranks"]) == (code, culprits)
    assert status == 3
    if kind == "frames":
        assert "dumps_recorder.py" in json.dumps(root_finding["evidence"])
    (imported,) = root.iterdir()
    again = CliRunner().invoke(cli, ["report", str(imported), "-o", "json"], standalone_mode=False)
    assert json.loads(again.stdout)["findings"] == report["findings"]
    assert again.return_value == 3


def test_dumps_of_a_job_that_moves_are_no_hang(tmp_path: Path, root: Path) -> None:
    status, report, _ = run_import(dumps_of("healthy", "pickle", tmp_path / "dumps"), root)
    assert (status, report["findings"]) == (0, [])


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def entry(seq: int, **more: object) -> dict[str, object]:
    """A collective as NCCL's recorder writes it: a double, no GPU is here."""
    return {
        "record_id": seq - 1, "pg_id": 0, "process_group": ("0", "default_pg"), "collective_seq_id": seq,
        "p2p_seq_id": 0, "op_id": seq, "profiling_name": "nccl:all_reduce", "time_created_ns": 10**18 + seq,
        "input_sizes": [[4, 8]], "input_dtypes": ["Float"], "output_sizes": [[4, 8]], "output_dtypes": ["Float"],
        "state": "completed", "time_discovered_started_ns": None, "retired": True, "timeout_ms": 600000,
        "is_p2p": False, "frames": [{"name": "step", "filename": "/job/train.py", "line": 12}], **more,
    }  # fmt: skip


def nccl_dump(entries: list[dict[str, object]], members: str = "[0, 1, 2]") -> dict[str, object]:
    done = sum(e["state"] == "completed" for e in entries)
    return {
        "version": "2.5", "nccl_version": "2.27.3", "entries": entries,
        "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": members}},
        "pg_status": {"0": {"last_enqueued_collective": len(entries), "last_completed_collective": done}},
    }  # fmt: skip


def write(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    os.utime(path, (2 * 10**9, 2 * 10**9))


def test_a_double_of_nccl_dumps_with_a_rank_whose_file_is_missing(
    tmp_path: Path, root: Path
) -> None:
    folder = tmp_path / "nccl"
    waiting = [entry(1), entry(2), entry(3, state="started", retired=False)]
    for rank in (0, 2):
        write(folder, f"nccl_trace_rank_{rank}", pickle.dumps(nccl_dump(waiting)))
    status, report, _ = run_import(folder, root)
    finding = report["findings"][0]
    assert (finding["code"], finding["culprit_ranks"]) == ("collective.rank_missing", [1])
    assert finding["confidence"] < 0.7, "whoever left no file may be anywhere"
    assert report["coverage"]["unobserved"] == {"1": "no dump of this rank was found"}
    assert status == 3


def test_a_group_whose_other_members_no_dump_names(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "gloo"
    pair: dict[str, object] = {"process_group": ("1", "pair"), "pg_id": 1, "state": "scheduled"}
    alone = entry(1, **pair, retired=False, profiling_name="gloo:all_reduce")
    for rank, entries in ((0, [entry(1), alone]), (1, [entry(1)])):
        content = {"version": "2.10", "entries": entries, "pg_config": {}, "pg_status": {}}
        write(folder, f"trace_{rank}", pickle.dumps(content))
    status, report, _ = run_import(folder, root)
    finding = report["findings"][0]
    assert (finding["code"], finding["culprit_ranks"]) == ("collective.rank_missing", [])
    assert finding["confidence"] < 0.5
    assert "members of the groups on imported" in report["coverage"]["not_observed"]
    assert status == 3


def test_sends_without_a_recv_are_read_from_names(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "p2p"
    sent = entry(1, is_p2p=True, profiling_name="nccl:send 0->1", state="scheduled", retired=False)
    write(folder, "trace_0.pickle", pickle.dumps(nccl_dump([sent], "[0, 1]")))
    write(folder, "trace_1.pickle", pickle.dumps(nccl_dump([entry(1)], "[0, 1]")))
    _, report, _ = run_import(folder, root)
    finding = report["findings"][0]
    assert (finding["code"], finding["culprit_ranks"]) == ("p2p.unmatched", [1])


def test_py_spy_stacks_join_the_dumps(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "both"
    waiting = [entry(1), entry(2, state="started", retired=False)]
    write(folder, "nccl_trace_rank_0", pickle.dumps(nccl_dump(waiting, "[0, 1]")))
    write(folder, "nccl_trace_rank_1", pickle.dumps(nccl_dump([entry(1)], "[0, 1]")))
    frames = [
        {"name": "Condition.wait", "filename": "/usr/lib/python3.11/threading.py", "line": 327},
        {"name": "_try_get_data", "filename": "/v/site-packages/torch/utils/data/dataloader.py", "line": 1},
        {"name": "train", "filename": "/job/train.py", "line": 77},
    ]  # fmt: skip
    thread = {"pid": 9, "thread_name": "MainThread", "os_thread_id": 9, "frames": frames}
    write(folder, "stack_rank1.json", json.dumps([thread]).encode())
    _, report, _ = run_import(folder, root)
    finding = report["findings"][0]
    assert (finding["code"], finding["culprit_ranks"]) == ("process.data_stall", [1])
    assert "train.py:77 in train" in finding["summary"]


def test_a_pickle_that_wants_to_run_something_runs_nothing(tmp_path: Path, root: Path) -> None:
    folder, proof = tmp_path / "evil", tmp_path / "proof"
    write(folder, "trace_0", pickle.dumps({"entries": [Bomb(proof)], "version": "2.5"}))
    write(folder, "trace_1", pickle.dumps(nccl_dump([entry(1)], "[0, 1]")))
    status, report, said = run_import(folder, root)
    assert not proof.exists()
    assert "trace_0: it refers to posix.system" in said
    assert status == 6
    assert any("trace_0" in text for text in json.dumps(report).split('"'))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"{not json", "JSON"),
        (b'{"a": 1}', "no `entries`"),
        (b'{"entries": [{"collective_seq_id": "x"}]}', "not a recorder's"),
        (pickle.dumps(nccl_dump([entry(1)]))[:-20], "not a complete pickle"),
        (b"\x80\x04\x95", "not a complete pickle"),
    ],
)
def test_files_that_are_no_dump_are_named_and_the_others_read(
    content: bytes, words: str, tmp_path: Path, root: Path
) -> None:
    folder = tmp_path / "mixed"
    write(folder, "trace_0", pickle.dumps(nccl_dump([entry(1)], "[0]")))
    write(folder, "trace_9", content)
    status, _, said = run_import(folder, root)
    assert status == 6
    assert "not read: trace_9" in said
    assert words in said


def test_a_folder_without_any_dump_is_an_error_that_says_what_to_do(
    tmp_path: Path, root: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    result = CliRunner().invoke(
        cli, ["import", str(tmp_path / "nothing"), "--dir", str(root)], standalone_mode=False
    )
    assert "says anything about a rank" in str(result.exception)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("nccl_trace_rank_3", 3), ("t_12", 12), ("/a/rank-7/x.json", None), ("rank=4.pkl", 4), ("node2_rank5.json", 5),
        ("dump.json", None), ("17", 17), ("trace.0.pickle", 0),
    ],
)  # fmt: skip
def test_the_rank_in_a_files_name(name: str, rank: int | None) -> None:
    assert rank_of(name) == rank


def test_only_plain_data_comes_out_of_a_pickle() -> None:
    plain = {"a": [1, 2.5, "x", None, True, (1,), {2}, b"y"], 3: {"deep": [[]]}}
    assert load_plain(pickle.dumps(plain)) == plain
    for thing in (Path("/tmp"), len, ValueError("x"), object()):
        with pytest.raises(NotPlain):
            load_plain(pickle.dumps(thing))
    with pytest.raises(NotARecorderDump):
        read_recorder_dump(pickle.dumps([1]))
