"""`distwatch stacks`: one tree, every thread on request, and a file that speedscope opens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from distwatch.cli.__main__ import cli
from distwatch.report.markdown import tree_lines
from distwatch.state import events as ev
from distwatch.views.stack_tree import merge
from tests.cli.runs import save
from tests.diagnosis.recorded import READING, WAITING, RecordedJob, frame

LOADER = (frame("worker", "/job/loader.py", 8), frame("fetch", "/job/loader.py", 20))


def stacks(root: Path, *options: str) -> str:
    done = CliRunner().invoke(
        cli, ["stacks", "threads", *options, "--dir", str(root)], standalone_mode=False
    )
    assert done.exception is None, done.exception
    return done.stdout


def job_with_threads() -> RecordedJob:
    job = RecordedJob(3)
    job.initialize(0, 1, 2)
    for rank in range(3):
        threads = (
            ev.ThreadStack(name="loader", os_thread_id=7, frames=LOADER),
            ev.ThreadStack(name="MainThread", os_thread_id=1000 + rank, frames=READING if rank == 2 else WAITING),
        )  # fmt: skip
        job.see(20, ev.StackTaken(process=job.key(rank), threads=threads))
    job.tick(21)
    return job


def test_the_tree_is_of_the_main_threads(root: Path) -> None:
    save(job_with_threads(), root, "threads")
    tree = stacks(root)
    assert "main (/job/train.py:9)  [0-2]" in tree
    assert "read_shard (/job/data.py:42)  [2]" in tree
    assert "loader.py" not in tree


def test_threads_stand_under_their_names(root: Path) -> None:
    save(job_with_threads(), root, "threads")
    lines = stacks(root, "--threads").splitlines()
    assert lines[0] == "thread MainThread"
    assert lines[lines.index("thread loader") + 1].strip().startswith("worker (/job/loader.py:8)")
    told = json.loads(stacks(root, "--threads", "-o", "json"))
    assert set(told["threads"]) == {"MainThread", "loader"}
    assert told["threads"]["loader"][0]["global_ranks"] == [0, 1, 2]


def native(function: str, file: str = "/lib/libc.so.6") -> ev.Frame:
    return ev.Frame(function=function, file=file, native=True)


def test_one_place_in_a_library_is_one_frame_wherever_a_rank_has_loaded_it() -> None:
    bottoms = ("0x7f9d8644524a", "0x7f78bb24524a", "0x7f05a203b24a")
    ranks = {
        rank: (native(bottom), frame("main", "/job/train.py", 9), native(f"0x7f{rank}f16"))
        for rank, bottom in enumerate(bottoms)
    }
    ranks[3] = (native("0x7f9d86445111"), frame("main", "/job/train.py", 9))
    lines = list(tree_lines(merge(ranks)))
    assert lines == [
        "0x…24a (/lib/libc.so.6)  [0-2]",
        "· main (/job/train.py:9)",
        "· 0x…f16 (/lib/libc.so.6)",
        "0x…111 (/lib/libc.so.6)  [3]",
        "· main (/job/train.py:9)",
    ]


def test_a_function_whose_name_has_no_end_says_that_it_is_cut() -> None:
    (line,) = tree_lines(merge({0: (native("std::vector<" + 400 * "int, "),)}))
    assert line.endswith("… (/lib/libc.so.6)  [0]")
    assert len(line) < 200


def is_speedscope(document: dict[str, Any]) -> None:
    """The rules of its file-format-schema.json for sampled profiles."""
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames = document["shared"]["frames"]
    assert all(isinstance(one["name"], str) for one in frames)
    for profile in document["profiles"]:
        assert (profile["type"], profile["unit"]) == ("sampled", "none")
        assert len(profile["samples"]) == len(profile["weights"])
        assert all(0 <= index < len(frames) for sample in profile["samples"] for index in sample)
        assert profile["endValue"] - profile["startValue"] == sum(profile["weights"])


def test_speedscope_weighs_each_rank_once(root: Path) -> None:
    save(job_with_threads(), root, "threads")
    document = json.loads(stacks(root, "-o", "speedscope", "--threads"))
    is_speedscope(document)
    main, loader = document["profiles"]
    assert sorted(main["weights"]) == [1, 2]
    assert loader["weights"] == [3]
    names = [frame["name"] for frame in document["shared"]["frames"]]
    assert [names[index] for index in loader["samples"][0]] == ["worker", "fetch"]


def test_native_frames_of_a_living_process(root: Path) -> None:
    script = "import time\nprint('up', flush=True)\ntime.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            done = CliRunner().invoke(
                cli, ["stacks", str(child.pid), "--native", "-o", "json", "--dir", str(root)],
                standalone_mode=False,
            )  # fmt: skip
            assert done.exception is None, done.exception
            text = done.stdout
            assert '"native": true' in text
            assert "sleep" in text
        finally:
            child.kill()
