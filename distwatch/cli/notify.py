"""`distwatch notify --test`: whether DISTWATCH_NOTIFY reaches anybody."""

from __future__ import annotations

import os
import socket

import click
import msgspec

from distwatch.cli.project import project_settings
from distwatch.cli.terminal import echo
from distwatch.errors import UsageError
from distwatch.observer.responses.addresses import addresses_in
from distwatch.observer.responses.delivery import deliver
from distwatch.report.notice import Notice

ADVICE = "Give a command, an https:// URL, or a URL of Apprise such as slack://…; or set DISTWATCH_NOTIFY."


@click.command()
@click.option("--test", is_flag=True, help="Send a test message now, once to each address.")
@click.argument("address", nargs=-1, metavar="[COMMAND|URL…]")
def command(test: bool, address: tuple[str, ...]) -> int:
    """Test whom the observer tells of a hang or a crash, without waiting for one.

    The addresses are those given, else DISTWATCH_NOTIFY, else `notify` of [tool.distwatch] in
    ./pyproject.toml: one command, or URLs. A command gets the report on its stdin, and
    DISTWATCH_RUN, DISTWATCH_CODE, DISTWATCH_SUMMARY and more in its environment.
    Exits with 1 if an address did not take the message.
    """
    setting = " ".join(address) or os.environ.get("DISTWATCH_NOTIFY", "")
    addresses = addresses_in(setting or project_settings().get("notify", ""))
    if not addresses:
        raise UsageError("nobody to tell: DISTWATCH_NOTIFY is not set", advice=ADVICE)
    if not test:
        raise UsageError("nothing to do without --test", advice="distwatch notify --test")
    report, failed = test_report(), False
    for one in addresses:
        outcome = deliver(one, TEST_NOTICE, report)
        failed = failed or bool(outcome.why)
        echo(f"{one.shown}: {outcome.why or 'took the message'}")
    return int(failed)


TEST_NOTICE = Notice(
    phase="test",
    run=f"distwatch on {socket.gethostname()}",
    severity="info",
    code="test",
    summary="This is a test. A real message names the rank at fault, its host, its step and what to do.",
)


def test_report() -> bytes:
    """A report without findings."""
    run = {"id": TEST_NOTICE.run, "started": None, "launcher": "none", "world_size": None}
    return msgspec.json.encode(
        {"schema": "distwatch.report/1", "run": {**run, "hosts": []}, "findings": [], "ranks": []}
    )
