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
@click.argument("target", required=False, metavar="RUN|DIR|PID")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=29601, show_default=True, help="0: a free one."
)
@click.option(
    "--token-file", metavar="FILE", help="Answer only requests that bear the token in it."
)
@root_option
def command(target: str | None, host: str, port: int, token_file: str | None, root: str) -> int:
    """Serve this node's runs: `/` is the report on RUN, or on the newest one, made when it is asked for.

    Also `/runs`, `/runs/ID/status.json`, `/runs/ID/report.json` (.md, .html), and `/metrics` for
    Prometheus, of all living runs. Without a token it listens at a loopback address alone, and
    answers this user and root alone; with one, `Authorization: Bearer TOKEN` opens it, over
    connections that are not encrypted.
    """
    token = token_in(token_file) if token_file else None
    if target is not None:
        resolve(target, root).folder()  # what does not exist is said before anything is served
    server = WebServer(Pages(root, target), host, port, token)
    echo(server.url)
    echo("distwatch: serving; Ctrl-C ends it", err=True)
    _serve(server)
    return 0


def _serve(server: WebServer) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        # It waits for the loop that this handler interrupts.
        threading.Thread(target=server.shutdown).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        server.serve_forever()
    finally:
        server.server_close()
