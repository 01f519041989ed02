"""`distwatch serve`: live pages, reports and metrics over HTTP, read-only."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec

import click

from distwatch.cli.options import WholeNumber, root_option
from distwatch.cli.terminal import echo
from distwatch.errors import DistwatchError, UsageError
from distwatch.observer.link.root_address import token_in
from distwatch.observer.targets.resolver import resolve

_NEEDED = ("starlette", "uvicorn")


@click.command()
@click.argument("target", required=False, metavar="[RUN|DIR|PID]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    metavar="PORT",
    type=WholeNumber(0, 65535),
    default=29601,
    show_default=True,
    help="0: any free port.",
)
@click.option(
    "--token-file", metavar="FILE", help="Answer only requests with the token in this file."
)
@click.option(
    "--tls-cert", metavar="FILE", help="Encrypt: the certificate, with its chain, as PEM."
)
@click.option("--tls-key", metavar="FILE", help="Its key, as PEM, without a password.")
@root_option
def command(
    target: str | None,
    host: str,
    port: int,
    token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    root: str,
) -> int:
    """Serve this node's runs to a browser: `/` is the live page of RUN, or of the newest run.

    `/runs` lists all runs. `/api` has them as JSON, `/runs/ID/report.html` (.md, .json) as files, and
    `/metrics` all living runs for Prometheus. Without a token, it listens only on a loopback address and
    answers only this user and root. With a token, requests need `Authorization: Bearer TOKEN`; a browser
    asks for it as a password. Needs the extra `distwatch[web]`.
    """
    _require_extra()
    if (tls_cert is None) != (tls_key is None):
        raise UsageError(
            "--tls-cert and --tls-key belong together",
            advice="Give both, or neither: the connection is then not encrypted.",
        )
    from distwatch.web.pages import Pages
    from distwatch.web.server import WebServer

    token = token_in(token_file) if token_file else None
    certificate = (tls_cert, tls_key) if tls_cert and tls_key else None
    if target is not None:
        resolve(target, root).folder()  # an unknown run fails before anything is served
    server = WebServer(Pages(root, target), host, port, token, certificate)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn ends by itself, and raises the signal again afterwards.
        signal.signal(number, lambda *_: server.stop())
    echo(server.url)
    echo("distwatch: serving; Ctrl-C stops it", err=True)
    server.run()
    return 0


def _require_extra() -> None:
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise DistwatchError(
            f"`distwatch serve` needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            "not installed here",
            advice=f"Run `{sys.executable} -m pip install 'distwatch[web]'`; then try again.",
        )
