"""`distwatch serve`: reports and metrics over HTTP, read-only."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import click

from distwatch.cli.options import root_option
from distwatch.cli.terminal import echo
from distwatch.observer.link.root_address import token_in
from distwatch.observer.targets.resolver import resolve
from distwatch.web.pages import Pages
from distwatch.web.server import WebServer


@click.command()
@click.argument("target", required=False, metavar="[RUN|DIR|PID]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=29601,
    show_default=True,
    help="0: any free port.",
)
@click.option(
    "--token-file", metavar="FILE", help="Answer only requests with the token in this file."
)
@root_option
def command(target: str | None, host: str, port: int, token_file: str | None, root: str) -> int:
    """Serve this node's runs: `/` is the report on RUN, or on the newest run, made on request.

    Also `/runs`, `/runs/ID/status.json`, `/runs/ID/report.json` (.md, .html), and `/metrics` of all
    living runs for Prometheus. Without a token, it listens only on a loopback address and answers
    only this user and root. With a token, requests need `Authorization: Bearer TOKEN`; connections
    are not encrypted.
    """
    token = token_in(token_file) if token_file else None
    if target is not None:
        resolve(target, root).folder()  # an unknown run fails before anything is served
    server = WebServer(Pages(root, target), host, port, token)
    echo(server.url)
    echo("distwatch: serving; Ctrl-C stops it", err=True)
    _serve(server)
    return 0


def _serve(server: WebServer) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        # `shutdown` waits for the loop that this handler interrupts.
        threading.Thread(target=server.shutdown).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        server.serve_forever()
    finally:
        server.server_close()
