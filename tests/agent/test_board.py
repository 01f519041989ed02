"""The three boards keep one contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from distwatch.agent.board import Board, FileBoard, OwnBoard, StoreBoard
from distwatch.tcpstore import StoreClient


@pytest.fixture(scope="module")
def store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)


@pytest.fixture(params=["store", "file", "own"])
def board(request: pytest.FixtureRequest, store: dist.TCPStore, tmp_path: Path) -> Iterator[Board]:
    if request.param == "store":
        client = StoreClient.connect("127.0.0.1", store.port)
        made: Board = StoreBoard(client, f"test/{request.node.name}")
    elif request.param == "file":
        made = FileBoard(str(tmp_path / "meet"), "test/0")
    else:
        made = OwnBoard()
    yield made
    made.close()


def test_the_first_claim_stands_until_it_is_replaced_by_name(board: Board) -> None:
    assert board.claim("rank/1", b"a") == b"a"
    assert board.claim("rank/1", b"b") == b"a"
    assert board.claim("rank/1", b"c", instead_of=b"a") == b"c"
    assert board.get("rank/1") == b"c"


def test_what_is_set_is_read(board: Board) -> None:
    assert board.get("view/3") is None
    board.set("view/3", b"\x00one")
    board.set("view/3", b"two")
    assert board.get("view/3") == b"two"


def test_a_board_below_is_another_board(board: Board) -> None:
    board.set("failed", b"1")
    assert board.below("1").get("failed") is None
    assert board.below("1").claim("failed", b"2") == b"2"
    assert board.get("failed") == b"1"


def test_ranks_are_counted(board: Board) -> None:
    below = board.below("0")
    if isinstance(board, OwnBoard):
        assert below.counted() == 1
        return
    assert below.counted() == 0
    for rank in range(3):
        below.claim(f"rank/{rank}", b"here")
        below.count()
    below.set("knows/0", b"1")
    assert below.counted() == 3


def test_ranks_without_us_are_counted_by_the_store(store: dist.TCPStore) -> None:
    with StoreClient.connect("127.0.0.1", store.port) as client:
        board = StoreBoard(client, "with others", "clients")
        before = board.count_others()
        worker = dist.TCPStore("127.0.0.1", store.port, 1, False)
        assert board.count_others() == before + 1
        assert StoreBoard(client, "a later world").count_others() == 0
        del worker


def test_under_torchrun_they_are_counted_by_their_addresses(store: dist.TCPStore) -> None:
    with StoreClient.connect("127.0.0.1", store.port) as client:
        board = StoreBoard(client, "under torchrun", "addresses")
        client.set("/default_pg/0//cpu//0/3", b"an address")
        client.set("/default_pg/0//1//cpu//0/3", b"an address in a group of the mesh")
        assert board.count_others() == 1


def test_the_last_to_leave_a_file_clears_it_away(tmp_path: Path) -> None:
    first, other = FileBoard(str(tmp_path / "meet"), "a"), FileBoard(str(tmp_path / "meet"), "b")
    first.set("rank/0", b"1")
    other.set("rank/0", b"1")
    first.remove()
    assert [path.name for path in (tmp_path / "meet.distwatch").iterdir()] == ["b.rank.0"]
    other.remove()
    assert list(tmp_path.iterdir()) == []
