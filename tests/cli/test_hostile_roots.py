"""Commands on files that another user has laid where ours are looked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distwatch.cli import options
from distwatch.cli.options import readable_root
from distwatch.errors import AttachDenied, UsageError
from tests.cli.runs import call
from tests.support.attacker import TRAPS, needs_root, theirs

NAMES = ("evil-1.start", "evil-1.journal", "evil-1.ring", "evil-1.pulse", "observer.lock")
COMMANDS = (
    ["ps"],
    ["status", "hung"],
    ["stacks", "hung"],
    ["report", "hung"],
    ["attach", "--once", "hung"],
    ["export", "hung"],
    ["clean", "--all", "--dry-run"],
)


@needs_root
@pytest.mark.parametrize("trap", TRAPS)
def test_no_command_is_held_up_or_led_astray(trap: str, hung: Path) -> None:
    before = {command[0]: call(*command, root=hung) for command in COMMANDS}
    for name in NAMES:
        TRAPS[trap](hung / "hung" / name)
        theirs(hung / "hung" / name)
    for command in COMMANDS:
        after = call(*command, root=hung)
        assert after.return_value == before[command[0]].return_value, command
        assert "root:" not in after.output, "a link into /etc was followed"
    assert "never entered" in call("status", "hung", root=hung).output


@needs_root
def test_a_folder_of_another_user_is_no_root_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    theirs(root)
    assert readable_root(str(root)) == str(root), "root may look at the runs of any user"
    monkeypatch.setattr(options, "default_root", lambda: str(root))
    with pytest.raises(AttachDenied, match="belongs to uid 65534"):
        readable_root(str(root))
    monkeypatch.undo()
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    with pytest.raises(AttachDenied, match="belongs to uid 65534"):
        readable_root(str(root))


@needs_root
@pytest.mark.parametrize("trap", ["fifo", "device", "folder"])
def test_a_plan_is_a_regular_file(trap: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    TRAPS[trap](plan)
    with pytest.raises(UsageError, match=r"is not a regular file|is a folder"):
        raise call("check", str(plan), root=tmp_path).exception or AssertionError


def test_a_plan_without_an_end_is_read_to_its_bound(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    with plan.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match="is larger than 4 MiB"):
        raise call("check", str(plan), root=tmp_path).exception or AssertionError
