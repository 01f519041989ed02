"""A Hugging Face hub on loopback: one model repository out of a folder, and its failures.

A job reaches it through HF_ENDPOINT, so that the real huggingface_hub does the real thing. What
goes wrong is chosen by a regex on "METHOD path", and nothing here sleeps: whoever has to wait
waits on one condition, and the end of the context releases it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

FaultKind = Literal["blackhole", "refuse", "drip", "error"]
"""blackhole: taken and never answered; refuse: reset; drip: half a body, no more; error: 503."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends RST, not FIN


class Hub:
    """The repository, what was asked for, and what goes wrong."""

    def __init__(self, folder: Path, repo: str) -> None:
        self.repo = repo
        self.requests: list[str] = []
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.etags = {name: hashlib.sha256(body).hexdigest() for name, body in self.files.items()}
        self.commit = hashlib.sha1(repr(sorted(self.etags.items())).encode()).hexdigest()
        self.closing = False
        self._faults: list[tuple[re.Pattern[str], FaultKind]] = []
        self._changed = threading.Condition()
        self._server = _Server(self)
        self._acceptor = threading.Thread(target=self._accept, name="hub")
        self._acceptor.start()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT has to say."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def lock_file(self, cache: Path, name: str) -> Path:
        """The lock under which huggingface_hub downloads that file into `cache`."""
        folder = f"models--{self.repo.replace('/', '--')}"
        return cache / ".locks" / folder / f"{self.etags[name]}.lock"

    def fault(self, pattern: str, kind: FaultKind) -> None:
        """From now on requests whose "METHOD path" matches fail so; the newest fault wins."""
        with self._changed:
            self._faults.insert(0, (re.compile(pattern), kind))

    def heal(self) -> None:
        """Ends all faults; who was kept waiting gets the answer that was kept back."""
        with self._changed:
            self._faults.clear()
            self._changed.notify_all()

    def wait_request(self, pattern: str, timeout_s: float = 30.0, times: int = 1) -> str:
        """Blocks until the `times`-th request that matches has arrived, and returns it."""

        def matching() -> list[str]:
            return [request for request in self.requests if re.search(pattern, request)]

        with self._changed:
            if self._changed.wait_for(lambda: len(matching()) >= times, timeout_s):
                return matching()[times - 1]
            raise AssertionError(
                f"{len(matching())} of {times} requests for {pattern!r} came within "
                f"{timeout_s:g} s, out of: {self.requests}"
            )

    def record(self, request: str) -> FaultKind | None:
        """Notes a request before it is answered, and says what goes wrong with it."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            return next((kind for regex, kind in self._faults if regex.search(request)), None)

    def keep_waiting(self) -> bool:
        """Blocks until the faults end; False where the hub ends first."""
        with self._changed:
            self._changed.wait_for(lambda: self.closing or not self._faults)
            return not self.closing

    def close(self) -> None:
        """Releases who waits, ends every connection and joins every thread."""
        with self._changed:
            self.closing = True
            self._changed.notify_all()
        # One more client, so that the acceptor sees that it has to end.
        socket.create_connection(("127.0.0.1", self._server.server_port), 5).close()
        self._acceptor.join()
        for connection in list(self._server.connections):
            with contextlib.suppress(OSError):  # the client may have ended it
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def _accept(self) -> None:
        while not self.closing:
            self._server.handle_request()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close joins no daemons

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)  # clients keep them alive: the hub's end has to shut them
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that give up are what these tests are about.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Says nothing: hub.requests does."""

    def do_GET(self) -> None:
        hub = self.server.hub
        fault = hub.record(f"{self.command} {self.path}")
        if fault == "blackhole" and not hub.keep_waiting():
            self.close_connection = True
        elif fault == "refuse":
            self._reset()
        elif fault == "error":
            self._answer(503)
        else:
            self._route(unquote(urlsplit(self.path).path), drip=fault == "drip")

    do_HEAD = do_GET

    def _route(self, path: str, drip: bool) -> None:
        hub = self.server.hub
        repo = re.escape(hub.repo)
        if file := re.fullmatch(rf"/{repo}/resolve/([^/]+)/(.+)", path):
            revision, name = file.groups()
            if revision not in ("main", hub.commit):
                self._answer(404, {"X-Error-Code": "RevisionNotFound"})
            elif name not in hub.files:
                self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.commit})
            else:
                self._send_file(name, drip)
        elif re.fullmatch(rf"/api/models/{repo}(/revision/[^/]+)?", path):
            siblings = [{"rfilename": name} for name in sorted(hub.files)]
            self._send_json({"id": hub.repo, "sha": hub.commit, "siblings": siblings}, drip)
        elif re.fullmatch(rf"/api/models/{repo}/tree/[^/]+", path):
            # Without a xetHash: the files are then fetched one by one over plain HTTP.
            sizes = [(name, len(body)) for name, body in sorted(hub.files.items())]
            tree = [{"type": "file", "path": n, "size": s, "oid": hub.etags[n]} for n, s in sizes]
            self._send_json(tree, drip)
        else:
            self._answer(404, {"X-Error-Code": "RepoNotFound"})

    def _send_json(self, value: Any, drip: bool) -> None:
        headers = {"Content-Type": "application/json"}
        self._answer(200, headers, json.dumps(value).encode(), drip)

    def _send_file(self, name: str, drip: bool) -> None:
        hub = self.server.hub
        body = hub.files[name]
        headers = {"ETag": f'"{hub.etags[name]}"', "X-Repo-Commit": hub.commit}
        # A client that resumes after a drip asks for the rest only.
        if resumed := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(resumed[1])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self._answer(206, headers, body[start:], drip)
        else:
            self._answer(200, headers, body, drip)

    def _answer(
        self, status: int, headers: Mapping[str, str] = {}, body: bytes = b"", drip: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = len(body) // 2 if drip else len(body)
        self.wfile.write(body[:sent])
        if drip and not self.server.hub.keep_waiting():
            self.close_connection = True
        else:
            self.wfile.write(body[sent:])

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.rfile.close()  # the socket is closed when nothing reads it any more
        self.connection.close()


@contextlib.contextmanager
def hub(folder: Path, repo: str = "org/model") -> Iterator[Hub]:
    """Serves the files of `folder`, which save_pretrained wrote, as the repository `repo`."""
    with contextlib.closing(Hub(folder, repo)) as serving:
        yield serving


@contextlib.contextmanager
def refusing_endpoint() -> Iterator[str]:
    """An endpoint at which nobody listens; its port stays taken, so that nobody begins to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def held_lock(lock_file: Path) -> Iterator[None]:
    """Holds a lock as huggingface_hub does it in another process: filelock's flock."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with open(lock_file, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def hub_environment(endpoint: str, cache: Path) -> dict[str, str]:
    """The variables of a process that downloads from there into `cache`, past any proxy."""
    names = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_CACHE": str(cache)}
    return {**names, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
