"""What a waiting main thread was called with, by `py-spy dump --locals`.

py-spy reads the values of every frame, so what is not needed here is dropped at once. Of torch.distributed's own
frames, numbers, lists of numbers and names of groups count; of a call that waits for the network, the host and port
in what is named as a host or an address, without the rest of that address; of a build lock, its folder.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlsplit

import msgspec

from distwatch.foreign_files import read_named
from distwatch.probes.process import call_in_words
from distwatch.probes.stacks import StackUnreadable, dump_text, parse_py_spy
from distwatch.state.events import ArgumentsRead
from distwatch.state.observer_events import MAIN_THREAD

WITHIN_S = 2.0
_FILES = re.compile(r"/torch/distributed/(distributed_c10d|c10d_logger)\.py$")
_NAMES = frozenset("src dst tag group_src group_dst ranks group_name".split())
_VALUE = re.compile(r"-?\d{1,9}|\[[\d, ]{0,200}\]|\"[\w.:\-]{1,64}\"")
_GIVEN, _DEFAULT = "given", "default"
_HOSTS = frozenset("host hostname server_hostname".split())
_ADDRESSES = frozenset("url full_url fullurl base_url endpoint netloc address addr".split())
_HOST = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,252}\w)?")
_PAIR = re.compile(r"""\(["']([^"']{1,253})["'], (\d{1,5})\)""")
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
_PEER = re.compile(r"→(\[[0-9a-fA-F:.]+\]:\d{1,5}|[\d.]+:\d{1,5})")
DNS_PORT = "53"
"""Who waits there asks for the address of the host that it named, whatever port it wants later."""
_HOSTS_MOST = 256 * 1024
BATON, _BUILD = "/file_baton.py", "/torch/utils/cpp_extension.py"


class _Local(msgspec.Struct):
    name: str
    repr: str | None = None


class _Frame(msgspec.Struct):
    name: str
    filename: str | None = None
    locals: tuple[_Local, ...] | None = None


class _Thread(msgspec.Struct):
    frames: tuple[_Frame, ...]
    thread_name: str | None = None


_decoder = msgspec.json.Decoder(tuple[_Thread, ...])


async def take_arguments(key: str, pid: int, *, peer: str = "") -> ArgumentsRead | None:
    """One look; None where the process cannot be read. Never raises, and does not pause the process.

    Args:
        peer: the address of whoever the main thread waits for: also look for the host that it named.
    """
    try:
        text = await asyncio.wait_for(dump_text(pid, "--nonblocking", "--locals"), WITHIN_S)
        threads = parse_py_spy(text)
    except (asyncio.TimeoutError, StackUnreadable, OSError):
        return None
    main = next((thread for thread in threads if thread.name == MAIN_THREAD), None)
    if main is None:
        return None
    arguments = parse_arguments(text, peer)
    return ArgumentsRead(process=key, frames=main.frames, arguments=arguments)


def parse_arguments(text: str, peer: str = "") -> dict[str, str]:
    """The arguments that count, of the main thread; empty where the text is something else."""
    try:
        threads = _decoder.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return {}
    found: dict[str, str] = {}
    # The innermost frame comes first and knows best: what a caller left out, torch has filled in there.
    for thread in threads:
        if thread.thread_name != MAIN_THREAD:
            continue
        builds = any((frame.filename or "").endswith(BATON) for frame in thread.frames)
        for frame in thread.frames:
            if _FILES.search(frame.filename or ""):
                _take(frame, found)
            elif peer and "host" not in found and (host := _host_in(frame, peer)):
                found["host"] = host
            elif builds and (frame.filename or "").endswith(_BUILD):
                _take_lock(frame, found)
    return found


def awaited_peer(pid: int) -> str:
    """The address and port that the main thread waits for, as the kernel has them; '' for none."""
    found = _PEER.search(call_in_words(pid, pid))
    return found[1] if found else ""


def host_by_file(pid: int, peer: str, path: str = "/etc/hosts") -> str:
    """The name that the process's own hosts file has for this address, as `name:port`; '' for none."""
    address, _, port = peer.rpartition(":")
    try:
        content = read_named(f"/proc/{pid}/root{path}", _HOSTS_MOST)
    except OSError:
        return ""
    for line in content.decode("utf-8", "replace").splitlines():
        names = line.partition("#")[0].split()
        if len(names) > 1 and names[0] == address.strip("[]") and _HOST.fullmatch(names[1]):
            return f"{names[1]}:{port}"
    return ""


def _take(frame: _Frame, found: dict[str, str]) -> None:
    is_wrapper = frame.name.endswith("wrapper")
    for local in frame.locals or ():
        value = local.repr or ""
        if is_wrapper and local.name in ("args", "kwargs"):
            # Inside, torch has put the default group where the caller named none.
            given = "ProcessGroup" in value or found.get("group") == _GIVEN
            found["group"] = _GIVEN if given else _DEFAULT
        elif not is_wrapper and local.name in _NAMES and _VALUE.fullmatch(value):
            found.setdefault(local.name, value.strip('"'))


def _take_lock(frame: _Frame, found: dict[str, str]) -> None:
    """torch's build lock is the file `lock` of the folder that it builds in."""
    for local in frame.locals or ():
        folder = (local.repr or "").strip("\"'")
        if local.name == "build_directory" and folder.startswith("/") and "..." not in folder:
            found.setdefault("lock", f"{folder.rstrip('/')}/lock")


def _host_in(frame: _Frame, peer: str) -> str:
    """`host:port`, where the frame names a host and, as far as it names one, the port that is waited for."""
    values = {local.name: local.repr or "" for local in frame.locals or ()}
    port = values.get("port", "")
    named = [_of_address(value) for name, value in values.items() if name in _ADDRESSES]
    named += [_of_host(value, port) for name, value in values.items() if name in _HOSTS]
    awaited = peer.rpartition(":")[2]
    fits = (one for one in named if one.endswith(f":{awaited}") or (one and awaited == DNS_PORT))
    return next(fits, "")


def _of_address(value: str) -> str:
    """`host:port` of a URL or of an address pair; '' where the value is cut, or something else."""
    if pair := _PAIR.fullmatch(value):
        return f"{pair[1]}:{pair[2]}" if _HOST.fullmatch(pair[1]) else ""
    text = value.strip("\"'")
    if value == text or "://" not in text:
        return ""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return ""
    # A long text is cut, and a host that is cut with it is none.
    whole = not text.partition("://")[2].partition("/")[0].endswith("...")
    return f"{host}:{port}" if whole and port and _HOST.fullmatch(host) else ""


def _of_host(value: str, port: str) -> str:
    """`host:port` of a host's name, with the port that stands beside it."""
    text = value.strip("\"'")
    host, _, own = text.partition(":")
    port = own or port
    if value == text or not _HOST.fullmatch(host) or not port.isdigit():
        return ""
    return f"{host}:{port}"
