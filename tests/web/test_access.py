"""Who is answered, and that nobody is shown anything but runs."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from distwatch.errors import DistwatchError, UsageError
from distwatch.web import admission
from distwatch.web.admission import CLIENTS, STRANGERS
from distwatch.web.pages import Pages
from distwatch.web.server import WebServer
from tests.web.conftest import TOKEN, Client, Serve

PAGES = ("/", "/runs", "/metrics", "/runs/hung/status.json", "/nothing")


def raw(client: Client, request: bytes) -> bytes:
    """All that the server says to these bytes until it closes."""
    with socket.create_connection(client.address, timeout=30) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_a_foreign_name_is_refused(serve: Serve, hung: Path) -> None:
    client = serve()
    for name in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.", ""):
        for path in PAGES:
            reply = client.ask(path, Host=name)
            assert reply.status == 421
            assert "hung" not in reply.text
    assert b" 421 " in raw(client, b"GET / HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:9"])
def test_a_tunnel_may_change_the_port(serve: Serve, hung: Path, name: str) -> None:
    assert serve().ask("/", Host=name).status == 200


_ASKS = """
import encodings.idna, os, socket, sys
os.setuid(int(sys.argv[2]))
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
try:
    if sys.argv[3:]:
        connection.sendall(b"GET /runs HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    print(connection.recv(15))
except ConnectionError as error:
    print(b"")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("asks", [(), ("a request",)])
def test_another_user_of_this_machine_is_turned_away_unread(
    serve: Serve, hung: Path, asks: tuple[str, ...]
) -> None:
    port = str(serve().address[1])
    command = [sys.executable, "-c", _ASKS, port]
    told = subprocess.check_output([*command, "65534", *asks], text=True, timeout=60)
    assert told == "b''\n"
    if asks:
        told = subprocess.check_output([*command, "0", *asks], text=True, timeout=60)
        assert told == "b'HTTP/1.1 200 OK'\n"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "http://[bad"}, 403),
        ({"Origin": "http://localhost:29601"}, 200),
        # What a browser sends without an Origin: an image or a script of another site, or its frame.
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)  # fmt: skip
@pytest.mark.parametrize("token", [None, TOKEN])
def test_another_sites_page_may_not_ask(
    serve: Serve, hung: Path, headers: dict[str, str], status: int, token: bytes | None
) -> None:
    client = serve(token=token)
    held = {"Authorization": f"Bearer {TOKEN.decode()}"} if token else {}
    for path in ("/runs", "/runs/hung/report.json"):
        reply = client.ask(path, Host="localhost:29601", **headers, **held)
        assert reply.status == status
        assert ("hung" in reply.text) == (status == 200)


def test_with_a_token_nothing_else_opens(serve: Serve, hung: Path) -> None:
    client = serve(token=TOKEN)
    token = TOKEN.decode()
    wrong = ["", "Bearer", f"Bearer {token}x", f"Bearer {token[:-1]}", "Bearer \xe9"]
    for given in (*wrong, token, f"Basic {token}"):
        for path in PAGES:
            reply = client.ask(path, **({"Authorization": given} if given else {}))
            assert reply.status == 401
            schemes = reply.headers.get_all("WWW-Authenticate")
            assert [one.partition(" ")[0] for one in schemes or []] == ["Bearer", "Basic"]
            assert "hung" not in reply.text
            assert token not in reply.text
    # Whoever has it may come by any name.
    password = base64.b64encode(f"anybody:{token}".encode()).decode()
    for given in (f"Bearer {token}", f"bearer {token}", f"Basic {password}"):
        reply = client.ask("/runs", Authorization=given, Host="node1.example:80")
        assert reply.status == 200
    for wrong_password in (f"anybody:{token}x", token, f"{token}:", ":"):
        given = "Basic " + base64.b64encode(wrong_password.encode()).decode()
        assert client.ask("/runs", Authorization=given).status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/runs/../secret/report.json",
        "/runs/..%2fsecret/report.json",
        "/runs/%2e%2e/report.json",
        "/runs//etc/report.json",
        "/runs/hung/../../secret",
        "/runs/hung/report.json/",
        "/runs/hung/observer.log",
        "/runs/hung/%00",
        "//runs/hung/journal",
        "/runs/secret",
        "/api/runs/secret/report",
        "/api/runs/hung/ranks/..",
        "/../../etc/passwd",
        "/%e2%82",
    ],
)
def test_there_is_no_way_to_another_file(serve: Serve, hung: Path, path: str) -> None:
    secret = hung.parent / "secret"
    secret.mkdir()
    (secret / "x.journal").write_text("secret")
    (hung / "hung" / "observer.log").write_text("secret")
    reply = serve().ask(path)
    assert reply.status == 404
    assert "secret" not in reply.text


def test_it_only_shows(serve: Serve, hung: Path) -> None:
    client = serve()
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
        reply = client.ask("/", method)
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")
    full, head = client.ask("/runs"), client.ask("/runs", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(full.body))


def test_every_answer_bears_the_headers(serve: Serve, hung: Path) -> None:
    client = serve()
    replies = [client.ask(path) for path in PAGES]
    replies += [client.ask("/", Host="evil.example"), client.ask("/", "POST")]
    replies.append(serve(token=TOKEN).ask("/"))
    for reply in replies:
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["X-Frame-Options"] == "DENY"
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert reply.headers["Server"].strip() == "distwatch"
        assert "Access-Control-Allow-Origin" not in reply.headers


def test_nonsense_is_answered_and_ends_nothing(serve: Serve, hung: Path) -> None:
    client = serve()
    host = b"Host: localhost\r\n"
    assert b" 400 " in raw(client, b"nonsense\r\n\r\n")
    assert b" 404 " in raw(client, b"GET /" + b"a" * 70_000 + b" HTTP/1.0\r\n" + host + b"\r\n")
    assert b" 400 " in raw(client, b"GET / HTTP/1.1\r\n" + host + b"X: " + b"y" * 17_000)
    assert b" 404 " in raw(client, b"GET http://[bad HTTP/1.0\r\n" + host + b"\r\n\xff")
    assert client.ask("/").status == 200


def test_whoever_says_nothing_keeps_nobody_waiting(serve: Serve, hung: Path) -> None:
    client = serve()
    silent = [socket.create_connection(client.address, timeout=30) for _ in range(CLIENTS - 1)]
    try:
        assert client.ask("/runs").status == 200
    finally:
        for connection in silent:
            connection.close()


def drip(connection: socket.socket) -> bytes:
    """Sends a header without an end, byte by byte, until the other side has enough of it."""
    connection.sendall(b"GET / HTTP/1.0\r\nX: ")
    try:
        while not select.select([connection], [], [], 0.02)[0]:
            connection.sendall(b"x")
        return connection.recv(100)
    except ConnectionError:
        return b""


def test_a_request_that_drips_in_has_one_deadline_for_all_of_it(
    serve: Serve, hung: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "REQUEST_WITHIN_S", 0.3)
    client = serve()
    with socket.create_connection(client.address, timeout=30) as connection:
        assert drip(connection) == b""
    monkeypatch.undo()
    assert client.ask("/runs").status == 200


def test_who_has_the_token_gets_in_however_many_drip(serve: Serve, hung: Path) -> None:
    client = serve(token=TOKEN)
    dripping = [socket.create_connection(client.address, timeout=30) for _ in range(3 * STRANGERS)]
    try:
        for number, connection in enumerate(dripping):
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET / HTTP/1.0\r\nX: ")
            if number % STRANGERS == 0:
                assert client.ask("/runs", Authorization=f"Bearer {TOKEN.decode()}").status == 200
        # The oldest have had to go.
        assert dripping[0].recv(1) == b""
    finally:
        for connection in dripping:
            connection.close()


_DRIPS = """
import encodings.idna, os, socket, sys
os.setuid(65534)
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
for one in held:
    try:
        one.sendall(b"GET / HTTP/1.0\\r\\nX: ")
    except OSError:
        pass
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_who_drips_takes_no_place_of_ours(serve: Serve, hung: Path) -> None:
    client = serve()
    # Places for us are left, but for one.
    ours = [socket.create_connection(client.address, timeout=30) for _ in range(CLIENTS - 1)]
    count = str(CLIENTS + STRANGERS)
    with subprocess.Popen(
        [sys.executable, "-c", _DRIPS, str(client.address[1]), count],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert client.ask("/runs").status == 200
        other.communicate("")
    for connection in ours:
        connection.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_other_machines_need_a_token(root: Path, host: str) -> None:
    with pytest.raises(UsageError, match="--token-file"):
        WebServer(Pages(str(root)), host, 0)
    server = WebServer(Pages(str(root)), "0.0.0.0", 0, TOKEN)
    server.close()


def test_a_port_that_is_taken_is_named(root: Path) -> None:
    server = WebServer(Pages(str(root)), "127.0.0.1", 0)
    try:
        port = server.address[1]
        with pytest.raises(DistwatchError, match=f"port {port}: Address already in use"):
            WebServer(Pages(str(root)), "127.0.0.1", port)
    finally:
        server.close()
