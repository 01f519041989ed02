"""The control socket: this node's observer asks a live agent to dump now."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import msgspec

from distwatch.observer_socket import peer_uid
from distwatch.socket_path import within_limit
from distwatch.state.events import Frame, ThreadStack

THREADS_TOLD = 64
FRAMES_TOLD = 200
_ANSWER_WITHIN_S = 0.5


class ControlSocket:
    """Answers requests of this user's processes, one line each, one at a time.

    `dump <reason>` journals the recorders' entries; `leave` takes an agent out that was brought in for a
    while; `end <reason>` ends the process where DISTWATCH_ON_HANG allows it; `stacks` returns all Python
    stacks as one line of JSON, for an observer that the kernel does not allow to read them itself.
    """

    def __init__(
        self,
        path: str,
        dump: Callable[[str], None],
        leave: Callable[[], bool] = lambda: False,
        end: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._dump = dump
        self._end = end
        self._leave = leave
        self._path = path
        self._socket: socket.socket | None = None
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            if os.path.exists(path):
                os.unlink(path)
            with within_limit(path) as short:
                listener.bind(short)
            os.chmod(path, 0o600)
            listener.listen(4)
            listener.setblocking(False)
        except OSError:
            listener.close()
            return
        self._socket = listener

    def serve(self, wait_s: float) -> bool | None:
        """Waits up to `wait_s` for a request and answers it; None where there is no socket."""
        listener = self._socket
        if listener is None:
            return None
        ready, _, _ = select.select([listener], [], [], wait_s)
        if not ready:
            return False
        try:
            connection, _ = listener.accept()
        except OSError:
            return False
        with connection:
            connection.settimeout(_ANSWER_WITHIN_S)
            try:
                self._answer(connection)
            except OSError:
                return False
        return True

    def _answer(self, connection: socket.socket) -> None:
        if peer_uid(connection) not in (os.getuid(), 0):
            return
        line = connection.recv(1024).decode("utf-8", "replace").strip()
        command, _, reason = line.partition(" ")
        if command == "dump":
            self._dump(reason or "asked")
            connection.sendall(b"ok\n")
        elif command == "leave":
            connection.sendall(b"ok\n" if self._leave() else b"this agent stays for good\n")
        elif command == "end":
            self._end(reason or "asked")
            connection.sendall(b"this process has not set DISTWATCH_ON_HANG=abort\n")
        elif command == "stacks":
            connection.sendall(msgspec.json.encode(own_stacks()) + b"\n")
        else:
            connection.sendall(b"unknown command; this socket knows: dump <reason>, stacks\n")

    def close(self, *, remove: bool = True) -> None:
        """Stops listening. A forked child does not remove the socket's file, which is the parent's."""
        listener, self._socket = self._socket, None
        if listener is not None:
            listener.close()
            if remove:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)


def own_stacks() -> list[ThreadStack]:
    """This process's Python threads, the outermost frame first; about 0.1 ms."""
    known = {thread.ident: thread for thread in threading.enumerate()}
    stacks: list[ThreadStack] = []
    for ident, innermost in list(sys._current_frames().items())[:THREADS_TOLD]:
        thread = known.get(ident)
        stacks.append(
            ThreadStack(
                name=thread.name if thread else "",
                os_thread_id=thread.native_id if thread else None,
                frames=_frames(innermost),
            )
        )
    return stacks


def _frames(innermost: FrameType) -> tuple[Frame, ...]:
    frames: list[Frame] = []
    frame: FrameType | None = innermost
    while frame is not None and len(frames) < FRAMES_TOLD:
        code = frame.f_code
        frames.append(Frame(function=code.co_name, file=code.co_filename, line=frame.f_lineno or 0))
        frame = frame.f_back
    return tuple(reversed(frames))
