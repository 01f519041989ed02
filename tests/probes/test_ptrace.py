"""Whether we may look, in words."""

from __future__ import annotations

import os

import pytest

from distwatch.probes import ptrace
from distwatch.probes.ptrace import (
    explain_denial,
    explain_rights,
    has_ptrace_capability,
    ptrace_rights,
)
from tests.probes.others import as_nobody


@pytest.mark.parametrize(
    ("capable", "scope", "allowed", "words"),
    [
        (True, None, True, "CAP_SYS_PTRACE"),
        (True, 2, True, "CAP_SYS_PTRACE"),
        (True, 3, False, "ptrace_scope is 3"),
        (False, None, True, "processes of uid 7"),
        (False, 0, True, "processes of uid 7"),
        (False, 1, False, "sysctl kernel.yama.ptrace_scope=0"),
        (False, 2, False, "--cap-add=SYS_PTRACE"),
        (False, 3, False, "ptrace_scope is 3"),
    ],
)
def test_each_setting(capable: bool, scope: int | None, allowed: bool, words: str) -> None:
    found, why = explain_rights(uid=7, capable=capable, scope=scope)
    assert found is allowed
    assert words in why


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_loses_the_capability() -> None:
    assert as_nobody(lambda: str(has_ptrace_capability())) == "False"
    assert "65534" in as_nobody(lambda: ptrace_rights()[1]) or ptrace_rights()[0] is False


@pytest.mark.parametrize(
    ("capable", "scope", "words"),
    [
        (True, None, "not even CAP_SYS_PTRACE reaches it"),
        (True, 3, "ptrace_scope is 3"),
        (False, None, "run distwatch with CAP_SYS_PTRACE (as root)"),
    ],
)
def test_who_has_the_right_already_is_not_told_to_get_it(
    capable: bool, scope: int | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ptrace, "has_ptrace_capability", lambda: capable)
    monkeypatch.setattr(ptrace, "yama_scope", lambda: scope)
    assert words in explain_denial(os.getpid())
