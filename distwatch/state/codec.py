"""Events as bytes. A kind that this version does not know survives reading and writing."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, TypeVar, Union

import msgspec

from distwatch.state.event import Event, UnknownEvent
from distwatch.state.rank_spans import begin_event

_T = TypeVar("_T")
_E = TypeVar("_E", bound=msgspec.Struct)
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
_encoder = msgspec.msgpack.Encoder()


@cache
def _decoder() -> msgspec.msgpack.Decoder[Event]:
    """For every event class; `events` has imported all of them before the first one is read."""
    known = tuple(kind for kind in Event.__subclasses__() if kind is not UnknownEvent)
    return msgspec.msgpack.Decoder(Union[known])  # noqa: UP007


@cache
def _known() -> frozenset[object]:
    return frozenset(kind.__struct_config__.tag for kind in Event.__subclasses__())


def encode_event(event: Event) -> bytes:
    """An event as msgpack."""
    if isinstance(event, UnknownEvent):
        return event.payload
    written = event.to_wire()
    try:
        return _encoder.encode(written)
    except UnicodeEncodeError:
        # An exception's message may hold a file name that is not UTF-8: part of it is better than nothing.
        return _encoder.encode(_without_surrogates(msgspec.to_builtins(written)))


def _without_surrogates(plain: Any) -> Any:
    if isinstance(plain, str):
        return plain.encode("utf-8", "replace").decode()
    if isinstance(plain, dict):
        return {_without_surrogates(key): _without_surrogates(plain[key]) for key in plain}
    several = isinstance(plain, (list, tuple))
    return [_without_surrogates(one) for one in plain] if several else plain


def decode_event(payload: bytes) -> Event | None:
    """An event from msgpack; None where the bytes are not an event. Never raises on garbage."""
    begin_event()
    return decode_part(payload)


def decode_part(payload: bytes | msgspec.Raw) -> Event | None:
    """Like `decode_event`, for an event inside another one."""
    try:
        return _decoder().decode(payload).from_wire()
    except _REFUSED:
        return _unknown(payload)


def _unknown(payload: bytes | msgspec.Raw) -> UnknownEvent | None:
    try:
        plain: Any = msgspec.msgpack.decode(payload)
    except (*_REFUSED, TypeError):
        return None
    kind = plain.get("kind") if isinstance(plain, dict) else None
    # A known kind that does not fit its type is damage or abuse, not a newer version.
    if not isinstance(kind, str) or kind in _known():
        return None
    return UnknownEvent(kind=kind, payload=bytes(payload))


_first = lru_cache(maxsize=8192)(lambda value: value)


_first_map = lru_cache(maxsize=8192)(lambda items: dict(items))


def share(value: _T) -> _T:
    """The first of all equal values, to save memory: ranks of one job send many equal ones."""
    first: _T = _first(value)
    return first


def share_parts(event: _E, *names: str) -> _E:
    """The same event or part, with the first of all equal values in these of its fields. Nobody changes them."""
    for name in names:
        if value := getattr(event, name):
            one = _first_map(tuple(value.items())) if isinstance(value, dict) else _first(value)
            msgspec.structs.force_setattr(event, name, one)
    return event
