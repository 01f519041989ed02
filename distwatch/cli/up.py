"""`distwatch up`: observers on every node of a cluster and one merged view."""

from __future__ import annotations

import os
from typing import Any

import click
import msgspec

from distwatch.cli.options import output_option, root_option, shell_option
from distwatch.cli.tables import lay_out, terminal_width
from distwatch.cli.terminal import echo, echo_json
from distwatch.errors import UsageError
from distwatch.observer.cluster.hosts import join_hosts, named_hosts
from distwatch.observer.cluster.ray_question import ask_cluster
from distwatch.observer.cluster.root_registry import SCHEME
from distwatch.observer.cluster.tasks import HostJoined
from distwatch.observer.targets.foreign_job import ForeignJob
from distwatch.observer.targets.resolver import resolve

SCHEMA = "distwatch.up/1"
PARTIAL = 6


@click.command()
@click.option("--ray", "ray", is_flag=True, help="All Ray nodes, including ones that join later.")
@click.option(
    "--address", default="", metavar="ADDRESS",
    help="Ray: the cluster's address, as for ray.init. Hosts: where this host listens, IP[:PORT].",
)  # fmt: skip
@click.option(
    "--hosts", metavar="H1,N[01-03],…", help="These hosts and this one, which is the root."
)
@click.option(
    "--run", "run", metavar="RUN|PID",
    help="Hosts: the run (default: this host's newest living run), or a process of a job without distwatch.",
)  # fmt: skip
@shell_option
@click.option("--stop", is_flag=True, help="Ray: remove the observer actors.")
@output_option("table", "json")
@root_option
def command(
    ray: bool,
    address: str,
    hosts: str | None,
    run: str | None,
    shell: str,
    stop: bool,
    output: str,
    root: str,
) -> int:
    """Start observers on every node of a cluster, linked to one that sees the whole run.

    \b
    distwatch up --ray                  every node of this machine's Ray cluster
    distwatch up --hosts node2,node3    by ssh, for the run that lives here
    distwatch up --hosts 'node[02-16]'  Slurm's and ClusterShell's notation
    distwatch up --hosts 1,2 --shell 'kubectl exec -i trainer-{host} --'

    The job keeps running, and may have started before; ranks without distwatch are looked at from
    outside. Exits with 6 if a node is left out.
    """
    if ray == bool(hosts):
        raise UsageError(
            "name either a Ray cluster or hosts",
            advice="`distwatch up --ray`, or `distwatch up --hosts node2,node3`.",
        )
    _require_fitting(ray)
    if ray:
        if _was_given("root"):
            os.environ["DISTWATCH_DIR"] = root
        return _ray(address, output, stop=stop)
    meant = resolve(run, root)
    job = meant.identity() if isinstance(meant, ForeignJob) else None
    folder = meant.folder_of_hosts() if isinstance(meant, ForeignJob) else meant.folder()
    joined = join_hosts(folder, named_hosts(hosts or ""), shell, address, job)
    return _print_hosts(joined, output)


def _require_fitting(ray: bool) -> None:
    """Raises UsageError for an option of the other mode, which would be ignored."""
    for option in ("run", "shell") if ray else ("stop",):
        if _was_given(option):
            raise UsageError(
                f"--{option} cannot be combined with {'--ray' if ray else '--hosts'}",
                advice="See `distwatch up --help`.",
            )


def _was_given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.COMMANDLINE


def _ray(address: str, output: str, *, stop: bool) -> int:
    if stop:
        ask_cluster("end", address)
        echo(
            "distwatch: all distwatch actors are stopped; the runs' own observers continue",
            err=True,
        )
        return 0
    table = ask_cluster("up", address)
    if table.get("open"):
        echo(
            "distwatch: this cluster requires no token: anyone who reaches it can read what the "
            "observers send (RAY_AUTH_MODE=token prevents that)",
            err=True,
        )
    left_out = [row for row in table["nodes"] if row["alive"] and row.get("why")]
    if output == "json":
        _print_json(table)
    else:
        rows = [("NODE", "ADDRESS", "HOST", "OBSERVER ACTOR", "RUNS"), *map(_row, table["nodes"])]
        for line in lay_out(rows, width=terminal_width()):
            echo(line)
        echo(
            f"distwatch: see all of it, on any node: `distwatch attach {SCHEME}{address.removeprefix(SCHEME)}`",
            err=True,
        )
    return PARTIAL if left_out else 0


def _row(node: dict[str, Any]) -> tuple[str, ...]:
    pid = f"pid {node['pid']}" if "pid" in node else ""
    actor = ", ".join(filter(None, (pid, node.get("why", ""))))
    runs = ", ".join(f"{name}: {what}" for name, what in node.get("runs", {}).items())
    return node["node_id"][:12], node["address"], node.get("host", ""), actor, runs or "none yet"


def _print_hosts(joined: list[HostJoined], output: str) -> int:
    if output == "json":
        # The card holds the token: only keepers may have it.
        rows = [msgspec.structs.replace(host, card=None) for host in joined]
        _print_json({"hosts": [msgspec.to_builtins(row) for row in rows]})
    else:
        table: list[tuple[str, ...]] = [("HOST", "CALLED", "KEEPER", "OBSERVER")]
        table += [
            (one.host, one.called, f"pid {one.pid}" if one.pid else "", one.failed or one.told)
            for one in joined
        ]
        for line in lay_out(table, width=terminal_width()):
            echo(line)
    return PARTIAL if any(host.failed for host in joined) else 0


def _print_json(document: dict[str, Any]) -> None:
    echo_json({"schema": SCHEMA, **document})
