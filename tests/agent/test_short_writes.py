"""Why a file could not be written whole, where the error does not say it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from distwatch.agent.limits import limits_of
from distwatch.agent.short_writes import limit_of_file, saved_path

SHORT = "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"
BLOCK = 4096


def full_disk(_: str) -> SimpleNamespace:
    """Stands for statvfs on a file system of 4 MiB that is full."""
    return SimpleNamespace(f_blocks=1024, f_bavail=3, f_frsize=BLOCK)


def save(place: object) -> None:
    """Fails as torch.save does, in a frame like its own."""
    code = compile(
        "def save(obj, f):\n    raise RuntimeError('short')\n", "/x/torch/serialization.py", "exec"
    )
    scope: dict[str, object] = {}
    exec(code, scope)
    scope["save"]({}, place)  # type: ignore[operator]


@pytest.mark.parametrize("place", ["/job/model.pt", Path("/job/model.pt")])
def test_a_full_disk_is_named_with_the_file(place: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", full_disk)
    with pytest.raises(RuntimeError) as raised:
        save(place)
    (limit,) = limits_of(raised.value, SHORT, "")
    assert (limit.what, limit.path) == ("disk", "/job/model.pt")
    assert (limit.used, limit.limit) == (1021 * BLOCK, 1024 * BLOCK)


def test_what_is_no_path_is_not_asked_about() -> None:
    with pytest.raises(RuntimeError) as raised:
        save(object())
    assert saved_path(raised.value) == ""
    assert list(limits_of(raised.value, SHORT, "")) == []


def test_a_working_directory_that_is_gone_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    (tmp_path / "job").rmdir()
    with pytest.raises(RuntimeError) as raised:
        save("model.pt")
    assert saved_path(raised.value) == ""


def test_an_error_that_is_only_handled_keeps_its_frames_to_itself() -> None:
    """To read a frame's variables keeps them alive for as long as the frame is."""
    with pytest.raises(RuntimeError) as raised:
        save("/job/model.pt")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "statvfs", full_disk)
        assert list(limits_of(raised.value, SHORT, ended=False)) == []
        assert len(list(limits_of(raised.value, SHORT))) == 1


def test_a_disk_with_room_is_no_limit(tmp_path: Path) -> None:
    assert limit_of_file(str(tmp_path / "model.pt")) is None


def test_a_lost_mount_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(os, "statvfs", lambda _: answered.wait() and full_disk(_))
    try:
        assert limit_of_file("/lost/model.pt") is None
    finally:
        answered.set()
