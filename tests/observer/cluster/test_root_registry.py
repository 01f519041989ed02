"""Cards lead viewers to roots, and are believed only where nobody else could have written them."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from distwatch.errors import NoSuchTarget
from distwatch.observer.cluster import root_registry as cards_module
from distwatch.observer.cluster.ray_question import ClusterSilent
from distwatch.observer.cluster.root_registry import (
    CARDS_FILE,
    HOSTS,
    KEPT_NS,
    MOST_CARDS,
    RAY,
    Card,
    read_cards,
    write_cards,
)
from distwatch.observer.cluster.root_search import find_root
from distwatch.observer.targets.remote_runs import LinkedRun
from distwatch.observer.targets.resolver import resolve
from distwatch.observer.targets.run_source import SourceLost
from distwatch.runfolder import RunFolder
from tests.support.ranks import free_port

TOKEN = "0123456789abcdef"


def card(
    cluster: str = "a:1",
    since_ns: int = 1,
    *,
    ended: bool = False,
    port: int = 1,
    kind: str = RAY,
) -> Card:
    return Card(
        cluster=cluster,
        kind=kind,
        place=f"127.0.0.1:{port}",
        token=TOKEN,
        host="n1",
        since_ns=since_ns,
        ended=ended,
    )


@pytest.fixture
def root_port() -> Iterator[int]:
    """The port of somebody who speaks first, as a root does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"\x01")

    thread = threading.Thread(target=greet, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def places(root: str) -> dict[str, tuple[str, int]]:
    return {name: (card.cluster, card.since_ns) for name, card in read_cards(root).items()}


def test_a_cluster_replaces_its_own_cards_alone(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_cards(root, "a:1", {"r1": card(), "r2": card()})
    write_cards(root, "b:1", {"r3": card("b:1")})
    write_cards(root, "a:1", {"r2": card(since_ns=2)})
    assert places(root) == {"r2": ("a:1", 2), "r3": ("b:1", 1)}
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


def test_a_name_that_leads_out_of_the_root_is_not_believed(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_cards(root, "a:1", {"../x": card(), "r": card()})
    assert set(read_cards(root)) == {"r"}
    heard = msgspec.structs.replace(card(), heard_ns=time.time_ns())
    (tmp_path / CARDS_FILE).write_bytes(msgspec.json.encode({"a/b": heard, ".": heard, "r": heard}))
    assert set(read_cards(root)) == {"r"}


def test_a_cluster_that_is_heard_of_no_more_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, now = str(tmp_path), time.time_ns()
    write_cards(root, "a:1", {"r1": card()})
    before = os.stat(tmp_path / CARDS_FILE).st_ino
    monkeypatch.setattr(cards_module.time, "time_ns", lambda: now + KEPT_NS // 2)
    write_cards(root, "b:1", {"r2": card("b:1")})
    assert set(read_cards(root)) == {"r1", "r2"}
    written = os.stat(tmp_path / CARDS_FILE).st_ino
    assert written != before
    write_cards(root, "b:1", {"r2": card("b:1")})
    assert os.stat(tmp_path / CARDS_FILE).st_ino == written  # nothing is new within the hour
    monkeypatch.setattr(cards_module.time, "time_ns", lambda: now + KEPT_NS)
    assert set(read_cards(root)) == {"r2"}
    write_cards(root, "c:1", {"r3": card("c:1")})
    assert b"r1" not in (tmp_path / CARDS_FILE).read_bytes()


def test_the_file_stays_within_what_is_read_of_it(tmp_path: Path) -> None:
    root, long = str(tmp_path), "n" * 240
    many = {f"{long}{i}": card(since_ns=i, ended=i % 2 == 0) for i in range(2 * MOST_CARDS)}
    write_cards(root, "a:1", many)
    kept = read_cards(root)
    assert len(kept) == MOST_CARDS
    assert not any(one.ended for one in kept.values())


def test_the_newest_root_that_answers_is_meant(tmp_path: Path, root_port: int) -> None:
    root = str(tmp_path)
    cards = {
        "ray-01000000-1": card(since_ns=1, port=root_port),
        "ray-02000000-1": card(since_ns=2, port=root_port),
        "ray-03000000-1": card(since_ns=3, ended=True),
        "ray-04000000-1": card("b:1", since_ns=4, port=free_port()),  # its cluster was lost
        "by-hosts": card("c:1", since_ns=9, port=root_port, kind=HOSTS),
        "unsaid": card("d:1", since_ns=10, port=root_port, kind=""),
    }
    for cluster in ("a:1", "b:1", "c:1", "d:1"):
        write_cards(root, cluster, {n: c for n, c in cards.items() if c.cluster == cluster})

    def found(target: str) -> str:
        card = find_root(target, root)
        return card[0] if card else ""

    assert found("ray://") == "ray-02000000-1"
    assert found("ray://auto/ray-01000000") == "ray-01000000-1"
    assert found("ray://a:1") == "ray-02000000-1"
    assert found("ray://a:1/ray-03000000") == "ray-03000000-1"
    assert found("ray-03000000") == "ray-03000000-1"
    assert found("by-hosts") == "by-hosts"
    assert found("ray-05000000") == ""


def test_where_nobody_answers_all_that_was_tried_is_said(tmp_path: Path) -> None:
    gcs, port = f"127.0.0.1:{free_port()}", free_port()
    write_cards(str(tmp_path), gcs, {"r": card(gcs, port=port)})
    with pytest.raises(ClusterSilent, match=f"root of r on n1 .*:{port}.*no Ray cluster answers"):
        resolve(f"ray://{gcs}", str(tmp_path))


def test_a_run_of_this_node_is_looked_at_here(tmp_path: Path) -> None:
    write_cards(str(tmp_path), "a:1", {"r": card()})
    folder = RunFolder(str(tmp_path / "r"))
    os.mkdir(folder.path)
    Path(folder.path, "n1-1.start").write_text("pid=1\n")
    assert resolve("r", str(tmp_path)).folder().path == folder.path


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
