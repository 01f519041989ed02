"""`distwatch serve`: the real command, from its first word to its end."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from distwatch.cli import serve
from distwatch.errors import DistwatchError, UsageError
from distwatch.web import admission
from distwatch.web.pages import Pages
from distwatch.web.server import WebServer
from tests.cli.runs import call, distwatch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(hung: Path, number: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "distwatch", "serve", "hung", "--port", "0", "--dir", str(hung)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=30) as reply:
            assert b"never entered" in reply.read()
        child.send_signal(number)
        out, talk = child.communicate(timeout=30)
        assert (child.returncode, out) == (0, "")
        assert talk == "distwatch: serving; Ctrl-C stops it\n"
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o600)
    return path


def test_what_is_not_safe_is_refused(hung: Path, token_file: Path) -> None:
    for arguments, code, words in (
        (("--host", "0.0.0.0"), 2, "is reachable from other machines. Give --token-file"),
        (("--token-file", "/nonexistent"), 2, "there is no token in /nonexistent"),
        (("--port", "65536"), 2, "65536"),
        (("--host", "host.invalid"), 1, "does not resolve"),
        (("nothing",), 5, "there is no run 'nothing'"),
    ):
        done = distwatch("serve", *arguments, root=hung)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in done.stderr
    token_file.chmod(0o644)
    done = distwatch("serve", "--token-file", str(token_file), root=hung)
    assert done.returncode == 2
    assert "others may read" in done.stderr
    token_file.chmod(0o600)
    token_file.write_text("short")
    done = distwatch("serve", "--token-file", str(token_file), root=hung)
    assert done.returncode == 2
    assert "the minimum is 16" in done.stderr


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate of localhost, signed by itself, and its key."""
    openssl = shutil.which("openssl") or pytest.skip("no openssl on this machine")
    folder = tmp_path_factory.mktemp("tls")
    files = (str(folder / "cert.pem"), str(folder / "key.pem"))
    command = (
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -out {files[0]} -keyout {files[1]}"
    )
    subprocess.run(command.split(), check=True, capture_output=True, timeout=60)
    return files


def test_with_a_certificate_it_is_encrypted(hung: Path, certificate: tuple[str, str]) -> None:
    server = WebServer(Pages(str(hung)), "127.0.0.1", 0, None, certificate)
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        assert server.url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=certificate[0])
        with urllib.request.urlopen(f"{server.url}api/runs", timeout=30, context=trust) as reply:
            assert b"hung" in reply.read()
        # Whoever does not speak TLS gets nothing, and nobody else has to wait for them.
        with socket.create_connection(server.address, timeout=30) as plain:
            plain.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert b"hung" not in plain.recv(1 << 16)
        with socket.create_connection(server.address, timeout=30):
            url = f"{server.url}metrics"
            with urllib.request.urlopen(url, timeout=30, context=trust) as reply:
                assert reply.status == 200
    finally:
        server.stop()
        serving.join()


def test_a_silent_tls_client_is_ended_at_the_deadline(
    hung: Path, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "REQUEST_WITHIN_S", 0.2)
    server = WebServer(Pages(str(hung)), "127.0.0.1", 0, None, certificate)
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        with socket.create_connection(server.address, timeout=30) as silent:
            assert silent.recv(1) == b""
    finally:
        server.stop()
        serving.join()


def test_certificates_that_cannot_be_used_are_named(
    hung: Path, certificate: tuple[str, str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no key")
    for arguments, words in (
        (("--tls-cert", certificate[0]), "belong together"),
        (("--tls-key", certificate[1]), "belong together"),
        (("--tls-cert", certificate[0], "--tls-key", str(bad)), "cannot be used"),
        (("--tls-cert", "/nonexistent", "--tls-key", certificate[1]), "cannot be used"),
        (("--tls-cert", certificate[1], "--tls-key", certificate[0]), "cannot be used"),
    ):
        done = call("serve", *arguments, "--port", "0", root=hung)
        assert isinstance(done.exception, UsageError), done.output
        assert words in str(done.exception)


def test_without_the_extra_it_says_how_to_install_it(
    hung: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        serve, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name)
    )
    done = call("serve", root=hung)
    assert isinstance(done.exception, DistwatchError)
    assert "needs uvicorn, which is not installed here" in str(done.exception)
    assert f"{sys.executable} -m pip install 'distwatch[web]'" in str(done.exception)
