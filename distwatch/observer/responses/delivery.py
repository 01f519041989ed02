"""Hands one notice to one address, in a process of its own that is ended at its deadline."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from distwatch.observer.responses.addresses import Address
from distwatch.observer.responses.sender import TRY_LATER
from distwatch.redaction import redact_text
from distwatch.report.notice import Notice, body_of
from distwatch.visible_text import visible_line

WITHIN_S = 20.0
_SAID_MOST = 4096
_SENDER = (
    "import sys; sys.path[:0] = sys.argv[1:2]; "
    "from distwatch.observer.responses.sender import main; sys.exit(main())"
)


class Outcome(NamedTuple):
    """`why` is '' where it arrived. `final`: another try would end in the same way."""

    why: str = ""
    final: bool = False


class Ended(NamedTuple):
    """How a process ended: its exit code, None at the deadline, and the last line that it said."""

    code: int | None
    said: str


def deliver(address: Address, notice: Notice, report: bytes, within_s: float = WITHIN_S) -> Outcome:
    """Blocks until the notice was taken, or for at most about `within_s`.

    Args:
        report: report.json as it is on disk; a command gets all of it on its stdin.
    """
    if address.kind == "command":
        ended = run_command(address.text, notice_environment(notice), report, within_s)
    else:
        if address.complaint:
            return Outcome(address.complaint, final=True)
        home = os.path.dirname(__file__).rsplit("/", 3)[0]
        asked = {
            "url": address.text,
            "title": notice.title,
            "text": notice.text,
            "body": body_of(report, notice).decode() if address.kind == "web" else "",
            "key": f"{notice.run}/{notice.incident}/{notice.phase}",
            "within_s": within_s,
        }
        argv = [sys.executable, "-c", _SENDER, home]
        ended = run_process(argv, dict(os.environ), msgspec.json.encode(asked), within_s)
    if ended.code == 0:
        return Outcome()
    if ended.code is None:
        return Outcome(f"no answer within {within_s:g} s")
    said = f": {ended.said}" if ended.said else ""
    if address.kind == "command":
        return Outcome(f"exit code {ended.code}{said}", final=ended.code in (126, 127))
    return Outcome(ended.said or f"exit code {ended.code}", final=ended.code != TRY_LATER)


def notice_environment(notice: Notice) -> dict[str, str]:
    """The variables that a command gets."""
    return {
        "DISTWATCH_RUN": notice.run,
        "DISTWATCH_CODE": notice.code,
        "DISTWATCH_SUMMARY": notice.summary,
        "DISTWATCH_PHASE": notice.phase,
        "DISTWATCH_SEVERITY": notice.severity,
        "DISTWATCH_INCIDENT": str(notice.incident),
        "DISTWATCH_RANKS": ",".join(map(str, notice.culprit_ranks)),
        "DISTWATCH_HOSTS": ",".join(notice.hosts),
        "DISTWATCH_TITLE": notice.title,
        "DISTWATCH_TEXT": notice.text,
        "DISTWATCH_REPORT": notice.place,
    }


def run_command(command: str, variables: Mapping[str, str], given: bytes, within_s: float) -> Ended:
    """Runs a shell command of the user's. What others said reaches it only as variables and stdin."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("DISTWATCH")
    }
    environ |= {name: value.replace("\0", "")[:8192] for name, value in variables.items()}
    environ["DISTWATCH"] = "0"
    return run_process(["/bin/sh", "-c", command], environ, given, within_s)


def run_process(argv: list[str], environ: dict[str, str], given: bytes, within_s: float) -> Ended:
    """Runs a process with `given` as its stdin; at the deadline, it and its children are killed."""
    stdin = os.memfd_create("distwatch-notice")
    try:
        with os.fdopen(stdin, "wb", closefd=False) as file:
            file.write(given)
        os.lseek(stdin, 0, os.SEEK_SET)
        process = subprocess.Popen(
            argv, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environ,
            cwd="/", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Ended(127, error.strerror or str(error))
    finally:
        os.close(stdin)
    said = b""
    try:
        said = _listen(process, time.monotonic() + within_s)
        code = process.poll()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stderr is not None:
            process.stderr.close()
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return Ended(code, visible_line(redact_text(lines[-1], 300)) if lines else "")


def _listen(process: subprocess.Popen[bytes], until: float) -> bytes:
    """Reads what it says until it has ended. Its own children may keep the pipe open for longer."""
    assert process.stderr is not None
    pipe, said, open_ = process.stderr.fileno(), b"", True
    ended = os.pidfd_open(process.pid)
    try:
        while (left_s := until - time.monotonic()) > 0:
            ready, _, _ = select.select([ended, pipe] if open_ else [ended], [], [], left_s)
            if pipe in ready:
                read = os.read(pipe, _SAID_MOST)
                said, open_ = (said + read)[-_SAID_MOST:], bool(read)
            elif ended in ready:
                process.wait()
                break
    finally:
        os.close(ended)
    return said
