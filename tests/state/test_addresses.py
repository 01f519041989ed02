"""What means the host itself, however it is written."""

from __future__ import annotations

import pytest

from distwatch.state.addresses import is_loopback, plain_address


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.1.1", "::1", "[::1]", "::1%lo", "::ffff:127.0.0.1", "LocalHost.", "ip6-localhost"]
)  # fmt: skip
def test_loopback_is_known_by_address_and_by_name(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "10.0.0.1", "0.0.0.0", "::", "fe80::1%eth0", "node1", "127.x.org"]
)
def test_what_another_host_could_be_is_none(host: str) -> None:
    assert not is_loopback(host)


def test_an_address_is_plain_without_interface_and_dress() -> None:
    assert str(plain_address("fe80::1%eth0")) == "fe80::1"
    assert str(plain_address("::ffff:10.0.0.1")) == "10.0.0.1"
    with pytest.raises(ValueError, match="node1"):
        plain_address("node1")
