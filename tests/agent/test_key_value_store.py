"""The three boards keep one contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from distwatch.agent.initialization.key_value_store import (
    FileKeyValues,
    KeyValueStore,
    OwnKeyValues,
    StoreKeyValues,
)
from distwatch.tcpstore import StoreClient


@pytest.fixture(scope="module")
def store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)


@pytest.fixture(params=["store", "file", "own"])
def key_values(
    request: pytest.FixtureRequest, store: dist.TCPStore, tmp_path: Path
) -> Iterator[KeyValueStore]:
    if request.param == "store":
        client = StoreClient.connect("127.0.0.1", store.port)
        made: KeyValueStore = StoreKeyValues(client, f"test/{request.node.name}")
    elif request.param == "file":
        made = FileKeyValues(str(tmp_path / "meet"), "test/0")
    else:
        made = OwnKeyValues()
    yield made
    made.close()


def test_the_first_claim_stands_until_it_is_replaced_by_name(key_values: KeyValueStore) -> None:
    assert key_values.claim("rank/1", b"a") == b"a"
    assert key_values.claim("rank/1", b"b") == b"a"
    assert key_values.claim("rank/1", b"c", instead_of=b"a") == b"c"
    assert key_values.get("rank/1") == b"c"


def test_what_is_set_is_read(key_values: KeyValueStore) -> None:
    assert key_values.get("view/3") is None
    key_values.set("view/3", b"\x00one")
    key_values.set("view/3", b"two")
    assert key_values.get("view/3") == b"two"


def test_a_store_below_is_another_store(key_values: KeyValueStore) -> None:
    key_values.set("failed", b"1")
    assert key_values.below("1").get("failed") is None
    assert key_values.below("1").claim("failed", b"2") == b"2"
    assert key_values.get("failed") == b"1"


def test_ranks_are_counted(key_values: KeyValueStore) -> None:
    below = key_values.below("0")
    if isinstance(key_values, OwnKeyValues):
        assert below.counted() == 1
        return
    assert below.counted() == 0
    for rank in range(3):
        below.claim(f"counted/{rank}", b"here")
        below.count()
    below.set("knows/0", b"1")
    assert below.counted() == 3


def test_ranks_without_us_are_counted_by_the_store(store: dist.TCPStore) -> None:
    with StoreClient.connect("127.0.0.1", store.port) as client:
        key_values = StoreKeyValues(client, "with others", "clients")
        before = key_values.count_others()
        worker = dist.TCPStore("127.0.0.1", store.port, 1, False)
        assert key_values.count_others() == before + 1
        assert StoreKeyValues(client, "a later world").count_others() == 0
        del worker


def test_under_torchrun_they_are_counted_by_their_addresses(store: dist.TCPStore) -> None:
    with StoreClient.connect("127.0.0.1", store.port) as client:
        key_values = StoreKeyValues(client, "under torchrun", "addresses")
        client.set("/default_pg/0//cpu//0/3", b"an address")
        client.set("/default_pg/0//1//cpu//0/3", b"an address in a group of the mesh")
        assert key_values.count_others() == 1


def test_the_last_to_leave_a_file_clears_it_away(tmp_path: Path) -> None:
    first, other = (
        FileKeyValues(str(tmp_path / "meet"), "a"),
        FileKeyValues(str(tmp_path / "meet"), "b"),
    )
    first.set("rank/0", b"1")
    other.set("rank/0", b"1")
    first.remove()
    assert [path.name for path in (tmp_path / "meet.distwatch").iterdir()] == ["b.rank.0"]
    other.remove()
    assert list(tmp_path.iterdir()) == []
