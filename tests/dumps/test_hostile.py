"""Files made to hurt whoever imports them: each is refused or read within its bounds, and the rest is judged."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distwatch.cli.__main__ import cli
from distwatch.dumps.evidence import read_evidence

MOST_MB = 700


def shared_references() -> bytes:
    """Entries that all refer to one list of sizes: a copy of each would take 80 GB."""
    sizes = [[1] * 100_000]
    entry = {"collective_seq_id": 1, "input_sizes": sizes, "profiling_name": "nccl:all_reduce"}
    return pickle.dumps({"entries": [dict(entry) for _ in range(10_000)], "version": "2.5"})


def entries(**changed: object) -> bytes:
    entry = {
        "collective_seq_id": 1,
        "profiling_name": "nccl:all_reduce",
        "state": "started",
        **changed,
    }
    return pickle.dumps({"entries": [entry], "version": "2.5", "pg_config": {}, "pg_status": {}})


WATCHDOG = (
    "[rank{rank}]:[E412 09:22:41.1 ProcessGroupNCCL.cpp:632] [Rank 0] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum={seq}, OpType=ALLREDUCE, NumelIn=9, NumelOut=9, Timeout(ms)={ms}) ran for {ms} milliseconds\n"
)
HOSTILE: dict[str, bytes] = {
    "memo index": b"\x80\x04]r\xff\xff\xff\x0f.",
    "larger memo index": b"\x80\x04}r\x00\x00\x00\x40.",
    "many sets": b"\x80\x04" + b"\x8f" * 2_000_000 + b".",
    "bytes of a terabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
    "frame of a terabyte": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b".",
    "a number of 2 GB": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "deep lists": b"\x80\x04" + b"]" * 500_000 + b"a" * 499_999 + b".",
    "shared references": shared_references(),
    "a number beyond 64 bits": entries(collective_seq_id=10**30, time_created_ns=10**40),
    "a timeout beyond 64 bits": entries(timeout_ms=-(10**25)),
    "deep JSON": b"[" * 200_000,
    "RAS of a billion ranks": json.dumps(
        {"communicators": [{"hash": "0x1", "size": 10**9, "ranks": [{"rank": 10**9, "collective_counts": {}}]}]}
    ).encode(),
    "rank and numbers without end": (
        WATCHDOG.format(rank=9_999_999, seq="9" * 60, ms="9" * 40) + WATCHDOG.format(rank=1, seq=7, ms="9" * 15)
    ).encode(),
    "an endless line": b"[rank0]: " + b"x" * 5_000_000,
    "tracebacks without an end": b"Traceback (most recent call last):\n" * 20_000,
    "escapes without an end": b"\x1b[" * 200_000 + b"\n" + b"\x1b]0;" * 100_000,
    "not text": os.urandom(64) + b"\x00" * 4096,
}  # fmt: skip
GOOD = "".join(WATCHDOG.format(rank=rank, seq=5, ms=600000) for rank in (0, 1, 3)).encode()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_does_not_keep_the_others_from_being_judged(
    name: str, tmp_path: Path
) -> None:
    folder, root = tmp_path / "left", tmp_path / "runs"
    folder.mkdir()
    root.mkdir(mode=0o700)
    (folder / "trace_rank_7").write_bytes(HOSTILE[name])
    (folder / "train.log").write_bytes(GOOD)
    result = CliRunner().invoke(
        cli, ["import", str(folder), "-o", "json", "--dir", str(root)], standalone_mode=False
    )
    assert result.exception is None, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    assert any(f["code"] == "collective.rank_missing" for f in report["findings"])
    assert result.return_value == 3
    (run,) = root.iterdir()
    again = CliRunner().invoke(cli, ["report", str(run), "-o", "json"], standalone_mode=False)
    assert json.loads(again.stdout)["findings"] == report["findings"]


def test_memory_is_bounded_by_the_size_of_what_is_read(tmp_path: Path) -> None:
    for number, content in enumerate(HOSTILE.values()):
        (tmp_path / f"trace_{number}").write_bytes(content)
    script = (
        "import sys\n"
        "from distwatch.dumps.evidence import read_evidence\n"
        "read_evidence([sys.argv[1]])\n"
        # Not ru_maxrss: a child starts with its parent's.
        "print(int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]) >> 10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < MOST_MB


def test_nothing_but_a_pickle_reaches_the_unpickler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bytes] = []

    def load(content: bytes) -> Any:
        given.append(content)
        return {"entries": []}

    monkeypatch.setattr("distwatch.dumps.recorder.load_plain", load)
    for name, content in HOSTILE.items():
        (tmp_path / name.replace(" ", "_")).write_bytes(content)
    (tmp_path / "old_protocol").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    read_evidence([str(tmp_path)])
    assert given
    assert all(content[:1] == b"\x80" for content in given)
