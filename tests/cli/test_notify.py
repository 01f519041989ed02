"""`distwatch notify --test`, and settings that can reach nobody."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from distwatch.cli.run import environment_for
from distwatch.errors import UsageError
from tests.cli.runs import distwatch


def test_a_test_message_reaches_a_command(root: Path, tmp_path: Path) -> None:
    told = f'echo "$DISTWATCH_PHASE $DISTWATCH_TEXT" > {tmp_path}/got'
    done = distwatch("notify", "--test", told, root=root)
    assert (done.returncode, done.stdout) == (0, "the command echo: took the message\n")
    assert (tmp_path / "got").read_text().startswith("test distwatch: test message from")


def test_an_address_that_takes_nothing(root: Path) -> None:
    done = distwatch("notify", "--test", "http://127.0.0.1:9/secret", root=root)
    assert (done.returncode, done.stdout) == (1, "http://127.0.0.1:9: Connection refused\n")


def test_nobody_to_tell(root: Path) -> None:
    done = distwatch("notify", "--test", root=root)
    assert done.returncode == 2
    assert "DISTWATCH_NOTIFY is not set" in done.stderr


def test_run_refuses_a_service_that_it_cannot_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"distwatch\[notify\]") as raised:
        environment_for({"notify": "slack://a/b/c"})
    assert "a/b/c" not in str(raised.value)
