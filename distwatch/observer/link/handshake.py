"""Who connects, and whether the root takes them: the first message of each side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from distwatch.observer.link.carrier import HANDSHAKE_WITHIN_S, dial
from distwatch.observer.link.channel import Channel, LinkBroken, LinkRefused
from distwatch.observer.link.messages import VERSION, Hello, Reply
from distwatch.observer.link.root_address import RootAddress
from distwatch.visible_text import visible_line

_LIMIT = 4096
_Word = TypeVar("_Word", bound=msgspec.Struct)


async def accept(channel: Channel, objection: Callable[[Hello], str]) -> Hello:
    """The root's side; the caller sets the time limit.

    Args:
        objection: why a side that knows the token is refused nevertheless; '': it is accepted.

    Raises:
        LinkRefused: there is an objection.
        LinkBroken: it does not speak this protocol.
    """
    hello = _decoded(await channel.receive(), Hello)
    refused = objection(hello)
    if hello.version != VERSION:
        refused = f"it uses version {hello.version} of the link; this is {VERSION}"
    await channel.send(msgspec.msgpack.encode(Reply(refused=refused)))
    if refused:
        raise LinkRefused(refused)
    return hello


async def connect(place: RootAddress, token: bytes, hello: Hello) -> Channel:
    """Connects to a root as a leaf or a viewer.

    Raises:
        LINK_ERRORS: the root does not answer, or refuses.
    """
    channel = await dial(place, token)
    try:
        await channel.send(msgspec.msgpack.encode(hello))
        reply = _decoded(await asyncio.wait_for(channel.receive(), HANDSHAKE_WITHIN_S), Reply)
        if reply.refused:
            raise LinkRefused(f"it refuses: {visible_line(reply.refused[:300])}")
    except BaseException:
        channel.abort()
        raise
    return channel


def _decoded(body: bytes, kind: type[_Word]) -> _Word:
    if len(body) > _LIMIT:
        raise LinkBroken(f"its message of {len(body)} bytes is over the limit of {_LIMIT}")
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LinkBroken(f"it does not use the link's protocol: {error}") from error
