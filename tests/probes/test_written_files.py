"""How far a process is in the files that it writes, and where they lie."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch.probes.written_files import with_free_space, written_files

PROGRAM = """
import os, sys
place = sys.argv[1]
part = open(f"{place}/part-1", "wb", buffering=0); part.write(b"x" * 5000)
log = open(f"{place}/train.log", "ab", buffering=0); log.write(b"x" * 9000)
source = open(f"{place}/part-1", "rb"); source.read()
last = open(f"{place}/part-2", "wb", buffering=0); last.write(b"x" * 70)
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("awaited", ["part-1", ""])
def test_the_file_that_is_awaited_comes_first_and_no_log(tmp_path: Path, awaited: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = written_files(child.pid, str(tmp_path / awaited) if awaited else "")
        names = [os.path.basename(one.path) for one in found]
        assert names == (["part-1", "part-2"] if awaited else ["part-2", "part-1"])
        assert {name: one.written_bytes for name, one in zip(names, found, strict=True)} == {
            "part-1": 5000,
            "part-2": 70,
        }
        (opening, *_) = written_files(child.pid, f"{tmp_path}/part-3")
        assert (opening.path, opening.written_bytes) == (f"{tmp_path}/part-3", 0)
        assert opening.storage == found[0].storage
        free = os.statvfs(tmp_path)
        seen = with_free_space(child.pid, found[0])
        assert seen.free_bytes is not None
        assert seen.free_bytes <= free.f_blocks * free.f_frsize
        assert found[0].storage
        assert str(tmp_path).startswith(found[0].mount)


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert written_files(child.pid) == []
