"""What `distwatch up` and `ray://` say when they cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distwatch.errors import UsageError
from distwatch.observer.cluster.hosts import named_hosts
from distwatch.observer.cluster.root_registry import CARDS_FILE, Card, write_cards
from tests.cli.runs import distwatch
from tests.support.ranks import free_port


@pytest.mark.parametrize("where", [[], ["--ray", "--hosts", "n2"]], ids=["nowhere", "both"])
def test_where_has_to_be_said(root: Path, where: list[str]) -> None:
    done = distwatch("up", *where, root=root)
    assert done.returncode == 2
    assert "distwatch up --ray" in done.stderr


def test_the_shell_has_to_take_the_hosts_name(hung: Path) -> None:
    done = distwatch("up", "--hosts", "n2", "--shell", "ssh", root=hung)
    assert done.returncode == 2
    assert "ssh {host}" in done.stderr


def test_a_run_that_does_not_live_here_has_no_root_here(hung: Path) -> None:
    done = distwatch("up", "--hosts", "n2", "--run", "hung", root=hung)
    assert done.returncode == 5
    assert "hung has no observer on this host" in done.stderr


@pytest.mark.parametrize("command", [["up", "--ray", "--address"], ["attach", "--once"]])
def test_a_cluster_that_is_not_there_is_said_at_once(root: Path, command: list[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    target = address if "up" in command else f"ray://{address}"
    done = distwatch(*command, target, root=root)
    assert done.returncode == 1
    assert f"no Ray cluster answers at {address}" in done.stderr


def test_a_card_leads_every_looking_command_to_the_root(root: Path) -> None:
    port = free_port()
    os.makedirs(root)
    card = Card(
        cluster="c:1", place=f"127.0.0.1:{port}", token="0123456789abcdef", host="n1", since_ns=1
    )
    write_cards(str(root), "c:1", {"far": card})
    for command in ("status", "stacks", "report", "dump"):
        done = distwatch(command, "far", root=root)
        assert done.returncode == 1, done.stderr
        assert f"127.0.0.1:{port}" in done.stderr
        assert card.token not in done.stderr + done.stdout
    assert os.listdir(root) == [CARDS_FILE]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node[01-03,05]", ["node01", "node02", "node03", "node05"]),
        ("n2, n1", ["n1", "n2"]),
        ("gpu[1-2]-ib,login", ["gpu1-ib", "gpu2-ib", "login"]),
        ("0,1", ["0", "1"]),
        ("user@10.0.0.[7-8]", ["user@10.0.0.7", "user@10.0.0.8"]),
    ],
)
def test_hosts_are_named_as_slurm_and_clustershell_name_them(text: str, names: list[str]) -> None:
    assert named_hosts(text) == names


@pytest.mark.parametrize("text", ["n[1-2", "n[1-100000000]", " "])
def test_what_names_no_hosts_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="--hosts"):
        named_hosts(text)
