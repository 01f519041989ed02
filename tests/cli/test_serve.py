"""`distwatch serve`: the real command, from its first word to its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cli.runs import distwatch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(hung: Path, number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "distwatch", "serve", "hung", "--port", "0", "--dir", str(hung)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=30) as reply:
            assert b"never entered" in reply.read()
        child.send_signal(number)
        out, talk = child.communicate(timeout=30)
        assert (child.returncode, out) == (0, "")
        assert talk == "distwatch: serving; Ctrl-C stops it\n"
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o600)
    return path


def test_what_is_not_safe_is_refused(hung: Path, token_file: Path) -> None:
    for arguments, code, words in (
        (("--host", "0.0.0.0"), 2, "is reachable from other machines. Give --token-file"),
        (("--token-file", "/nonexistent"), 2, "there is no token in /nonexistent"),
        (("--port", "65536"), 2, "65536"),
        (("--host", "host.invalid"), 1, "does not resolve"),
        (("nothing",), 5, "there is no run 'nothing'"),
    ):
        done = distwatch("serve", *arguments, root=hung)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in done.stderr
    token_file.chmod(0o644)
    done = distwatch("serve", "--token-file", str(token_file), root=hung)
    assert done.returncode == 2
    assert "others may read" in done.stderr
    token_file.chmod(0o600)
    token_file.write_text("short")
    done = distwatch("serve", "--token-file", str(token_file), root=hung)
    assert done.returncode == 2
    assert "the minimum is 16" in done.stderr
