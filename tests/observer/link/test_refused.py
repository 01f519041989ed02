"""What a root says of whom it refused."""

from __future__ import annotations

import pytest

from distwatch.observer.daemon import Observer
from distwatch.observer.link import carrier
from distwatch.observer.link.carrier import dial
from distwatch.observer.link.channel import LinkRefused
from distwatch.observer.link.handshake import connect
from distwatch.observer.link.messages import Hello
from distwatch.observer.link.root import Root
from distwatch.runfolder import RunFolder

TOKEN = b"0123456789abcdef"


async def test_who_was_refused_is_not_said_again_without_an_address(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroMQ may have closed a refused connection before its address can be read."""
    observer = Observer(folder)
    root = Root(observer, TOKEN)
    await root.start("127.0.0.1", 0)
    assert root.place is not None
    for address in ("192.0.2.7", ""):
        monkeypatch.setattr(carrier, "_address_of", lambda _, address=address: address)
        with pytest.raises(LinkRefused, match="its token differs"):
            await dial(root.place, b"f" * 16)
        # What comes after it is only heard once the refusal was.
        hello = Hello(kind="leaf", run_id="r", host=f"far-{address or 'away'}", node="n")
        (await connect(root.place, TOKEN, hello)).abort()
    host = observer.state.hosts[observer.recording.header.host]
    assert host.not_observed["link"] == "192.0.2.7 was refused: its token differs"
    await root.close()
    await observer.finish("the test ends")
