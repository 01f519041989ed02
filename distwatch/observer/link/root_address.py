"""The root's address, whether it is this machine, and the link's token."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Mapping

import msgspec

from distwatch.errors import DistwatchError
from distwatch.foreign_files import FileRefused, open_ours, read_private
from distwatch.state.addresses import is_loopback, plain_address
from distwatch.state.bounds import whole_number

TOKEN_FILE = "token"
TOKEN_LENGTH = 16
LOOPBACK = "127.0.0.1"


class LinkMisconfigured(DistwatchError):
    """The settings of the link are not valid or not safe."""

    exit_code = 2


class RootAddress(msgspec.Struct, frozen=True):
    """Host name or address, and port, of the root: the observer that sees the whole run."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def root_place(setting: str, master_addr: str) -> RootAddress | None:
    """The address in DISTWATCH_OBSERVER; None for `auto` and `off`.

    `:port` means the host of MASTER_ADDR, or loopback where that is not set.

    Raises:
        LinkMisconfigured: it is none of these.
    """
    if setting in ("", "auto", "off"):
        return None
    place = _split(setting)
    if place is None or not place.port:
        raise LinkMisconfigured(
            f"DISTWATCH_OBSERVER={setting!r} is neither auto, off nor host:port",
            advice="Give the first host's name and a free port, the same on all hosts.",
        )
    return RootAddress(place.host or master_addr or LOOPBACK, place.port)


def parse_place(text: str) -> RootAddress:
    """Parses `host:port`, the `str` of a RootAddress; port 0 is any.

    Raises:
        LinkMisconfigured: it is something else.
    """
    place = _split(text)
    if place is None or not place.host:
        raise LinkMisconfigured(f"{text[:80]!r} is not host:port")
    return place


def _split(text: str) -> RootAddress | None:
    host, colon, port = text.rpartition(":")
    number = whole_number(port)
    if not colon or number is None or number >= 65536:
        return None
    return RootAddress(host.strip("[]"), number)


def read_token(environ: Mapping[str, str], root: str) -> bytes:
    """DISTWATCH_TOKEN, else the file `token` in the root of the run folders.

    Raises:
        LinkMisconfigured: there is none, it is too short, or others may read it.
    """
    path = os.path.join(root, TOKEN_FILE)
    token = environ.get("DISTWATCH_TOKEN", "").strip() or _token_file(path)
    if not token:
        raise LinkMisconfigured(
            "observers of several hosts need a token, but none is set",
            advice=f"Set DISTWATCH_TOKEN to the same secret on all hosts, or write it to {path} "
            "with mode 0600 (`openssl rand -hex 16` makes one).",
        )
    return require_length(token)


def token_in(path: str) -> bytes:
    """The token in a file.

    Raises:
        LinkMisconfigured: there is none, it is too short, or others may read it.
    """
    if not (token := _token_file(path)):
        raise LinkMisconfigured(
            f"there is no token in {path}",
            advice=f"`(umask 077; openssl rand -hex 16 > {path})` makes one.",
        )
    return require_length(token)


def require_length(token: str) -> bytes:
    """The token's bytes; raises LinkMisconfigured where it is too short."""
    if len(token) < TOKEN_LENGTH:
        raise LinkMisconfigured(
            f"the token has {len(token)} characters; the minimum is {TOKEN_LENGTH}",
            advice="`openssl rand -hex 16` makes one.",
        )
    return token.encode()


def make_token(root: str) -> str:
    """The token in this node's file, which is created if missing. For starting roots.

    Raises:
        LinkMisconfigured: the file's content is not a token, or others may read it.
        OSError: it cannot be written.
    """
    path = os.path.join(root, TOKEN_FILE)
    if not _token_file(path):
        # Two processes may start at once and must agree on one token: the first link wins.
        fresh = f"{path}.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = open_ours(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.write(descriptor, secrets.token_hex(16).encode() + b"\n")
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            os.close(descriptor)
            os.unlink(fresh)
    return token_in(path).decode()


def _token_file(path: str) -> str:
    try:
        return read_private(path, 4096).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        said = isinstance(error, FileRefused)
        why = str(error) if said else f"{path} cannot be read: {error.strerror}"
        raise LinkMisconfigured(why, advice=f"chmod 600 {path}" if said else "") from error


async def address_here(place: RootAddress) -> str | None:
    """The address to listen on if the root is this machine; None if it is another.

    Raises:
        OSError: its name does not resolve.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    for family, _, _, _, address in found:
        if _is_ours(family, str(address[0])):
            return _listening(place.host, str(address[0]))
    return None


def _is_ours(family: int, address: str) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        try:
            attempt.bind((address, 0))
        except OSError:
            return False
    return True


def _listening(host: str, address: str) -> str:
    # Many systems resolve their own name to 127.0.1.1, where no other host can connect.
    with contextlib.suppress(ValueError):
        plain_address(host)  # an address means just that address
        return address
    if host != "localhost" and is_loopback(address):
        return "::" if ":" in address else "0.0.0.0"
    return address
