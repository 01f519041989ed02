"""Cards lead viewers to roots, and are believed only where nobody else could have written them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from distwatch.errors import NoSuchTarget
from distwatch.observer.cluster.cards import CARDS_FILE, Card, read_cards, write_cards
from distwatch.observer.linked import LinkedRun, find_linked
from distwatch.observer.live import SourceLost
from distwatch.runfolder import RunFolder
from tests.support.ranks import free_port

TOKEN = "0123456789abcdef"


def card(cluster: str = "a:1", since_ns: int = 1, *, ended: bool = False, port: int = 1) -> Card:
    return Card(
        cluster=cluster,
        place=f"127.0.0.1:{port}",
        token=TOKEN,
        host="n1",
        since_ns=since_ns,
        ended=ended,
    )


def test_a_cluster_replaces_its_own_cards_alone(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_cards(root, "a:1", {"r1": card(), "r2": card()})
    write_cards(root, "b:1", {"r3": card("b:1")})
    write_cards(root, "a:1", {"r2": card(since_ns=2)})
    assert read_cards(root) == {"r2": card(since_ns=2), "r3": card("b:1")}
    assert os.stat(tmp_path / CARDS_FILE).st_mode & 0o777 == 0o600
    assert os.listdir(root) == [CARDS_FILE]


@pytest.mark.parametrize("what", ["open to others", "a link", "garbage", "other fields"])
def test_what_is_not_safe_or_not_ours_is_not_believed(tmp_path: Path, what: str) -> None:
    path = tmp_path / CARDS_FILE
    write_cards(str(tmp_path), "a:1", {"r": card()})
    if what == "open to others":
        path.chmod(0o644)
    elif what == "a link":
        path.rename(tmp_path / "real")
        path.symlink_to(tmp_path / "real")
    else:
        path.write_bytes(b"\xff{" if what == "garbage" else b'{"r": {"place": 1}}')
        path.chmod(0o600)
    assert read_cards(str(tmp_path)) == {}


def test_the_newest_that_lives_is_meant(tmp_path: Path) -> None:
    cards = {
        "ray-01000000-1": card(since_ns=1),
        "ray-02000000-1": card(since_ns=2),
        "ray-03000000-1": card(since_ns=3, ended=True),
        "other": card("b:1", since_ns=9),
    }
    for cluster in ("a:1", "b:1"):
        write_cards(
            str(tmp_path), cluster, {n: c for n, c in cards.items() if c.cluster == cluster}
        )

    def found(target: str) -> str:
        linked = find_linked(target, str(tmp_path))
        return linked.run_id if linked else ""

    assert found("ray://") == "other"
    assert found("ray://auto/ray-01000000") == "ray-01000000-1"
    assert found("ray://a:1") == "ray-02000000-1"
    assert found("ray-03000000") == "ray-03000000-1"
    assert found("ray-04000000") == ""


def test_a_run_of_this_node_is_looked_at_here(tmp_path: Path) -> None:
    write_cards(str(tmp_path), "a:1", {"r": card()})
    folder = RunFolder(str(tmp_path / "r"))
    os.mkdir(folder.path)
    Path(folder.path, "n1-1.start").write_text("pid=1\n")
    assert find_linked("r", str(tmp_path)) is None


async def test_a_run_that_has_ended_is_where_its_root_was(tmp_path: Path) -> None:
    source = LinkedRun("r", card(ended=True), str(tmp_path))
    with pytest.raises(NoSuchTarget, match="distwatch report r` there"):
        await source.open()


async def test_a_root_that_does_not_answer_is_named(tmp_path: Path) -> None:
    port = free_port()
    source = LinkedRun("r", card(port=port), str(tmp_path))
    with pytest.raises(SourceLost, match=f"127.0.0.1:{port}"):
        await source.open()
    await source.close()


def test_a_token_is_nowhere_but_in_the_card(tmp_path: Path) -> None:
    source = LinkedRun("r", card(), str(tmp_path))
    assert TOKEN not in source.note
    assert TOKEN in msgspec.json.encode(source.card).decode()
