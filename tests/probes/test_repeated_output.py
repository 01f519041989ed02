"""A log that says the same over and over, and one that tells of progress."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch.observer.looks.flows import Flows
from distwatch.probes.repeated_output import Output, look_at_output, repeated_line

LOG = "/job/rank1.log"


def told(text: str, *, elsewhere: int = 0) -> str | None:
    """What is said of a log to which a process has added that text since it was looked at first."""
    before = Output(1000, {LOG: 5000}, {LOG: b"it begins\n"})
    content = text.encode()
    now = Output(1000 + len(content) + elsewhere, {LOG: 5000 + len(content)}, {LOG: content})
    return repeated_line(before, now)


def test_a_retry_that_reports_each_attempt() -> None:
    assert told("cannot allocate 3 GiB\n" * 5) == "cannot allocate 3 GiB"


def test_times_do_not_count_and_of_several_lines_the_telling_one_is_shown() -> None:
    rounds = [
        f"2026-11-29 23:45:{n:02},123 WARNING storage timed out\n  file='weights.bin'\n"
        for n in range(4)
    ]
    assert told("".join(rounds)) == "2026-11-29 23:45:03,123 WARNING storage timed out"


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"evaluated {n} batches\n" for n in range(9)),
        "loading\n" * 5 + "loaded shard 3 of 7\n",
    ],
)
def test_lines_that_differ_are_progress(text: str) -> None:
    assert told(text) == ""


def test_who_also_writes_elsewhere_makes_progress() -> None:
    assert told("saving\n" * 9, elsewhere=1 << 20) == ""


@pytest.mark.parametrize("text", ["", "waiting\n" * 2])
def test_too_little_tells_nothing(text: str) -> None:
    assert told(text) is None


def test_a_log_that_was_cut_tells_nothing() -> None:
    before = Output(1000, {LOG: 5000}, {LOG: b""})
    assert repeated_line(before, Output(1100, {LOG: 100}, {LOG: b"again\n" * 9})) is None


def test_secrets_and_control_characters_are_not_shown() -> None:
    said = told("retry with token=hf_abcdefghijklmnopqrstuvwxyz0123 \x1b[2J\n" * 4)
    assert said is not None
    assert "hf_abcdef" not in said
    assert "\x1b" not in said


SCRIPT = (
    "import os, sys; os.write(1, b'one\\n'); os.write(2, b'two\\n'); os.write(int(sys.argv[1]), b'.'); "
    "sys.stdin.read()"
)


def test_the_logs_of_a_process_are_its_stdout_and_stderr(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ready, written = os.pipe()
    command = [sys.executable, "-c", SCRIPT, str(written)]
    with (
        log.open("wb") as out,
        os.fdopen(ready, "rb") as told_ready,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=out, pass_fds=[written]
        ) as process,
    ):
        os.close(written)
        assert told_ready.read(1) == b"."
        seen = look_at_output(process.pid)
        process.communicate()
    assert seen is not None
    assert seen.tails == {str(log): b"one\ntwo\n"}
    assert seen.sizes == {str(log): 8}


def test_what_is_written_over_and_over_is_no_movement() -> None:
    flows = Flows()
    once = Output(0, {LOG: 0}, {LOG: b""})
    flows.note_output("k", once)
    flows.look("k", os.getpid())
    with open(os.devnull, "wb", buffering=0) as void:
        void.write(b"x")
    moving = flows.look("k", os.getpid())
    assert moving is not None
    assert moving.main.at_ns > 0
    flows.note_output("k", Output(24, {LOG: 24}, {LOG: b"again..\n" * 3}))
    still = flows.look("k", os.getpid())
    assert still is not None
    assert (still.main.at_ns, still.repeats) == (0, "again..")
    flows.note_output(
        "k", Output(48, {LOG: 48}, {LOG: b"again..\n" * 3 + b"done: it has gone on...\n"})
    )
    after = flows.look("k", os.getpid())
    assert after is not None
    assert after.repeats == ""
