"""What torchrun's agents agree on is read without being loaded, and where they meet from their command lines."""

from __future__ import annotations

import base64
import pickle

import pytest
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

from distwatch.probes.elastic_rendezvous import (
    Rendezvous,
    look_at_rendezvous,
    nodes_in,
    rendezvous_of,
)
from tests.support.ranks import free_port


def state_of(*nodes: _NodeDesc) -> bytes:
    """As torchrun's c10d backend writes it, with each node in several tables."""
    state = _RendezvousState()
    for rank, node in enumerate(nodes):
        state.participants[node] = rank
        state.last_heartbeats[node] = state.deadline  # type: ignore[assignment]
        state.wait_list.add(node)
    return base64.b64encode(pickle.dumps(state))


def test_each_node_is_named_once() -> None:
    nodes = [_NodeDesc("node1", 11, 0), _NodeDesc("node1", 70000, 0), _NodeDesc("node2", 11, 0)]
    assert nodes_in(state_of()) == []
    named = ["node1 (pid 11)", "node1 (pid 70000)", "node2 (pid 11)"]
    assert sorted(nodes_in(state_of(*nodes))) == named


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the pickle was loaded')",)


@pytest.mark.parametrize("raw", [b"", b"\xff", b"no pickle", b"\x80\x04h\x07."])
def test_what_is_no_state_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not what torchrun writes"):
        nodes_in(base64.b64encode(raw))
    with pytest.raises(ValueError, match="not what torchrun writes"):
        nodes_in(raw + b"!")


def test_a_pickle_with_code_is_read_and_not_run() -> None:
    assert nodes_in(base64.b64encode(pickle.dumps(Bomb()))) == []


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=n1:7 --rdzv-id=a a.py --nnodes 9", ("c10d", "n1", 7, "a", 2)),
        ("--nnodes 2:4 --rdzv_backend c10d --rdzv_endpoint n1 train.py", ("c10d", "n1", 29500, "none", 2)),
        ("--nnodes=3 --master-addr=n1 --master-port=8 train.py", ("static", "n1", 8, "none", 3)),
    ],
)  # fmt: skip
def test_where_the_agents_meet(words: str, meant: tuple[str, str, int, str, int]) -> None:
    backend, host, port, run_id, least = meant
    found = rendezvous_of(("torchrun", *words.split()), {})
    assert found == Rendezvous(backend=backend, host=host, port=port, run_id=run_id, least=least)


def test_one_node_has_no_rendezvous_and_the_environment_counts() -> None:
    assert rendezvous_of(("torchrun", "--nproc-per-node=2", "train.py"), {}) is None
    assert rendezvous_of(("mpirun", "-np", "2"), {}) is None
    found = rendezvous_of(("torchrun", "train.py"), {"PET_NNODES": "2", "PET_MASTER_ADDR": "n7"})
    assert found is not None
    assert (found.host, found.least) == ("n7", 2)


def test_a_store_is_read_and_its_absence_is_told() -> None:
    port = free_port()
    meant = Rendezvous(backend="c10d", host="127.0.0.1", port=port, run_id="a", least=2)
    looked = look_at_rendezvous("n-1.1", "n", meant)
    assert looked.nodes_joined is None
    assert f"127.0.0.1:{port}" in looked.detail
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    assert look_at_rendezvous("n-1.1", "n", meant).nodes_joined == 0
    store.set("torch.rendezvous.a", state_of(_NodeDesc("node1", 11, 0)))
    looked = look_at_rendezvous("n-1.1", "n", meant)
    assert (looked.nodes_joined, looked.nodes) == (1, ("node1 (pid 11)",))
