"""Who is root, and which token is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distwatch.observer.link.root_address import (
    LinkMisconfigured,
    RootAddress,
    address_here,
    read_token,
    root_place,
)
from distwatch.redaction import allowed_environment

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("setting", "master", "place"),
    [
        ("auto", "n1", None),
        ("off", "n1", None),
        ("n2:29600", "n1", RootAddress("n2", 29600)),
        (":29600", "n1", RootAddress("n1", 29600)),
        (":29600", "", RootAddress("127.0.0.1", 29600)),
        ("[::1]:29600", "", RootAddress("::1", 29600)),
    ],
)
def test_who_is_root(setting: str, master: str, place: RootAddress | None) -> None:
    assert root_place(setting, master) == place


@pytest.mark.parametrize("setting", ["n1", "n1:", "n1:0", "n1:65536", "n1:x", "on"])
def test_what_names_nobody(setting: str) -> None:
    with pytest.raises(LinkMisconfigured, match="host:port"):
        root_place(setting, "")


def test_the_token_is_in_the_environment_or_in_a_private_file(tmp_path: Path) -> None:
    with pytest.raises(LinkMisconfigured, match="none is set"):
        read_token({}, str(tmp_path))
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o640)
    with pytest.raises(LinkMisconfigured, match="others may read"):
        read_token({}, str(tmp_path))
    file.chmod(0o600)
    assert read_token({}, str(tmp_path)) == TOKEN.encode()
    assert read_token({"DISTWATCH_TOKEN": TOKEN[::-1]}, str(tmp_path)) == TOKEN[::-1].encode()
    with pytest.raises(LinkMisconfigured, match="the minimum is"):
        read_token({"DISTWATCH_TOKEN": "short"}, str(tmp_path))
    os.replace(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LinkMisconfigured, match="cannot be read"):
        read_token({}, str(tmp_path))


def test_the_token_is_written_nowhere() -> None:
    assert "DISTWATCH_TOKEN" not in allowed_environment({"DISTWATCH_TOKEN": TOKEN})
    assert "DISTWATCH_OBSERVER" in allowed_environment({"DISTWATCH_OBSERVER": "a:1"})


async def test_loopback_is_here_and_listens_there_alone() -> None:
    assert await address_here(RootAddress("127.0.0.1", 1)) == "127.0.0.1"
    assert await address_here(RootAddress("localhost", 1)) in ("127.0.0.1", "::1")
    assert await address_here(RootAddress("192.0.2.1", 1)) is None
